//! The one list of served APIs: dispatch, ApiVersions and metrics come from it.

use bytes::Bytes;

use super::configs::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use super::discovery::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse};
use super::fetch::{FetchRequest, FetchResponse};
use super::offsets::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};
use super::primitive::{DecodeError, Form, Reader, Segments, Str, Wire, Writer};
use super::produce::{InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse};
use super::topics::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse,
};

macro_rules! apis {
    ($($(#[$doc:meta])* $name:ident = $key:literal,
        advertised $min:literal to $max:literal, served from $served:literal, flexible from $flexible:literal,
        $request:ident -> $response:ident;)*) => {
        /// An API we serve.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum Api {
            $($(#[$doc])* $name = $key,)*
        }

        impl Api {
            /// All of them, by key.
            pub const ALL: &[Api] = &[$(Api::$name),*];

            pub fn from_key(key: i16) -> Option<Api> {
                match key {
                    $($key => Some(Api::$name),)*
                    _ => None,
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    $(Api::$name => stringify!($name),)*
                }
            }

            /// The versions told to clients.
            pub fn advertised(self) -> (i16, i16) {
                match self {
                    $(Api::$name => ($min, $max),)*
                }
            }

            pub fn serves(self, version: i16) -> bool {
                match self {
                    $(Api::$name => ($served..=$max).contains(&version),)*
                }
            }

            fn flexible_from(self) -> i16 {
                match self {
                    $(Api::$name => $flexible,)*
                }
            }
        }

        #[derive(Clone, Debug, PartialEq)]
        pub enum Request {
            $($name($request),)*
        }

        #[derive(Clone, Debug, PartialEq)]
        pub enum Response {
            $($name($response),)*
        }

        impl Request {
            fn decode(api: Api, from: &mut Reader, form: Form) -> Result<Request, DecodeError> {
                match api {
                    $(Api::$name => $request::decode(from, form).map(Request::$name),)*
                }
            }
        }

        impl Response {
            pub fn api(&self) -> Api {
                match self {
                    $(Response::$name(_) => Api::$name,)*
                }
            }

            fn encode(&self, to: &mut Writer, form: Form) {
                match self {
                    $(Response::$name(body) => body.encode(to, form),)*
                }
            }
        }

        $(impl From<$response> for Response {
            fn from(body: $response) -> Response {
                Response::$name(body)
            }
        })*
    };
}

apis! {
    /// Advertised from 0, because librdkafka before 2.11 takes its absence for a broker without compression
    /// (KAFKA-18659); versions below 3 carry records of a format that is not stored any more.
    Produce = 0, advertised 0 to 13, served from 3, flexible from 9, ProduceRequest -> ProduceResponse;
    Fetch = 1, advertised 4 to 18, served from 4, flexible from 12, FetchRequest -> FetchResponse;
    ListOffsets = 2, advertised 1 to 11, served from 1, flexible from 6, ListOffsetsRequest -> ListOffsetsResponse;
    Metadata = 3, advertised 0 to 13, served from 0, flexible from 9, MetadataRequest -> MetadataResponse;
    ApiVersions = 18, advertised 0 to 4, served from 0, flexible from 3, ApiVersionsRequest -> ApiVersionsResponse;
    CreateTopics = 19, advertised 2 to 7, served from 2, flexible from 5, CreateTopicsRequest -> CreateTopicsResponse;
    DeleteTopics = 20, advertised 1 to 6, served from 1, flexible from 4, DeleteTopicsRequest -> DeleteTopicsResponse;
    DeleteRecords = 21, advertised 0 to 2, served from 0, flexible from 2,
        DeleteRecordsRequest -> DeleteRecordsResponse;
    InitProducerId = 22, advertised 0 to 5, served from 0, flexible from 2,
        InitProducerIdRequest -> InitProducerIdResponse;
    OffsetForLeaderEpoch = 23, advertised 2 to 4, served from 2, flexible from 4,
        OffsetForLeaderEpochRequest -> OffsetForLeaderEpochResponse;
    DescribeConfigs = 32, advertised 1 to 4, served from 1, flexible from 4,
        DescribeConfigsRequest -> DescribeConfigsResponse;
    AlterConfigs = 33, advertised 0 to 2, served from 0, flexible from 2, AlterConfigsRequest -> AlterConfigsResponse;
    CreatePartitions = 37, advertised 0 to 3, served from 0, flexible from 2,
        CreatePartitionsRequest -> CreatePartitionsResponse;
    IncrementalAlterConfigs = 44, advertised 0 to 1, served from 0, flexible from 1,
        IncrementalAlterConfigsRequest -> IncrementalAlterConfigsResponse;
}

impl Api {
    pub fn form(self, version: i16) -> Form {
        Form { version, flexible: version >= self.flexible_from() }
    }
}

/// What stands before every request. The client's name is in the older form for strings in every version.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub api: Api,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<Str>,
}

/// A request that cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("API {key} is not served")]
    UnknownApi { key: i16 },
    #[error("{} version {version} is not served", api.name())]
    UnsupportedVersion { api: Api, version: i16, correlation_id: i32 },
    #[error("{} version {version}", api.name())]
    Malformed {
        api: Api,
        version: i16,
        #[source]
        source: DecodeError,
    },
    #[error("the header of a request")]
    Header(#[from] DecodeError),
}

/// Reads a whole request frame. Bytes behind the message are passed over, as Kafka does: librdkafka leaves three of them
/// behind Metadata 9 and later when it asks for all topics.
pub fn decode_request(frame: Bytes) -> Result<(Header, Request), RequestError> {
    let old = Form { version: 0, flexible: false };
    let mut from = Reader::new(frame);
    let key = i16::decode(&mut from, old)?;
    let version = i16::decode(&mut from, old)?;
    let correlation_id = i32::decode(&mut from, old)?;
    let api = Api::from_key(key).ok_or(RequestError::UnknownApi { key })?;
    if !api.serves(version) {
        return Err(RequestError::UnsupportedVersion { api, version, correlation_id });
    }
    let form = api.form(version);
    let client_id = Option::<Str>::decode(&mut from, old)?;
    if form.flexible {
        from.tagged(|_, _| Ok(false))?;
    }
    let malformed = |source| RequestError::Malformed { api, version, source };
    let request = Request::decode(api, &mut from, form).map_err(malformed)?;
    Ok((Header { api, version, correlation_id, client_id }, request))
}

/// Writes a whole response frame.
pub fn encode_response(response: &Response, version: i16, correlation_id: i32) -> Segments {
    let form = response.api().form(version);
    let mut to = Writer::default();
    correlation_id.encode(&mut to, form);
    // A client reads the answer to ApiVersions before it knows what we speak: its header never has tagged fields.
    if form.flexible && response.api() != Api::ApiVersions {
        to.uvarint(0);
    }
    response.encode(&mut to, form);
    to.into_frame()
}
