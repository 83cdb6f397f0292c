//! Configuration of topics and brokers: DescribeConfigs, AlterConfigs and IncrementalAlterConfigs.

use super::primitive::Str;

messages! {
    DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource> [0..];
        include_synonyms: bool [1..];
        include_documentation: bool [3..];
    }
    DescribeConfigsResource {
        /// See [`resource`].
        resource_type: i8 [0..];
        resource_name: Str [0..];
        /// Null asks for all.
        configuration_keys: Option<Vec<Str>> [0..];
    }
    DescribeConfigsResponse {
        throttle_time_ms: i32 [0..];
        results: Vec<DescribeConfigsResult> [0..];
    }
    DescribeConfigsResult {
        error_code: i16 [0..];
        error_message: Option<Str> [0..];
        resource_type: i8 [0..];
        resource_name: Str [0..];
        configs: Vec<DescribeConfigsResourceResult> [0..];
    }
    DescribeConfigsResourceResult {
        name: Str [0..];
        value: Option<Str> [0..];
        read_only: bool [0..];
        /// See [`source`].
        config_source: i8 [1..] = -1;
        is_sensitive: bool [0..];
        /// The places that give the option a value, the one that counts first.
        synonyms: Vec<DescribeConfigsSynonym> [1..];
        /// See [`config_type`].
        config_type: i8 [3..];
        documentation: Option<Str> [3..];
    }
    DescribeConfigsSynonym {
        name: Str [1..];
        value: Option<Str> [1..];
        source: i8 [1..];
    }

    AlterConfigsRequest {
        resources: Vec<AlterConfigsResource> [0..];
        validate_only: bool [0..];
    }
    AlterConfigsResource {
        resource_type: i8 [0..];
        resource_name: Str [0..];
        /// All options that are to have a value; the others go back to their defaults.
        configs: Vec<AlterableConfig> [0..];
    }
    AlterableConfig {
        name: Str [0..];
        value: Option<Str> [0..];
    }
    AlterConfigsResponse {
        throttle_time_ms: i32 [0..];
        responses: Vec<AlterConfigsResourceResponse> [0..];
    }
    /// Of IncrementalAlterConfigs too.
    AlterConfigsResourceResponse {
        error_code: i16 [0..];
        error_message: Option<Str> [0..];
        resource_type: i8 [0..];
        resource_name: Str [0..];
    }

    IncrementalAlterConfigsRequest {
        resources: Vec<IncrementalAlterConfigsResource> [0..];
        validate_only: bool [0..];
    }
    IncrementalAlterConfigsResource {
        resource_type: i8 [0..];
        resource_name: Str [0..];
        configs: Vec<IncrementalAlterableConfig> [0..];
    }
    IncrementalAlterableConfig {
        name: Str [0..];
        /// See [`operation`].
        config_operation: i8 [0..];
        value: Option<Str> [0..];
    }
    IncrementalAlterConfigsResponse {
        throttle_time_ms: i32 [0..];
        responses: Vec<AlterConfigsResourceResponse> [0..];
    }
}

/// What has a configuration.
pub mod resource {
    pub const TOPIC: i8 = 2;
    pub const BROKER: i8 = 4;
}

/// Where a value comes from.
pub mod source {
    /// The topic itself says so.
    pub const TOPIC: i8 = 1;
    /// The settings the broker was started with.
    pub const STATIC_BROKER: i8 = 4;
    pub const DEFAULT: i8 = 5;
}

/// What an IncrementalAlterConfigs does with one option.
pub mod operation {
    pub const SET: i8 = 0;
    pub const DELETE: i8 = 1;
    pub const APPEND: i8 = 2;
    pub const SUBTRACT: i8 = 3;
}

/// What kind of value an option has.
pub mod config_type {
    pub const BOOLEAN: i8 = 1;
    pub const STRING: i8 = 2;
    pub const INT: i8 = 3;
    pub const LONG: i8 = 5;
    pub const DOUBLE: i8 = 6;
    pub const LIST: i8 = 7;
}
