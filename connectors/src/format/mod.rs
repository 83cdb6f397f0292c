//! How records hold rows: one file a format, [`formats`] is their list. All of them are deterministic, keep nothing
//! between calls and never panic at what a record holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::codec::{DecodeError, Format};

mod columns;
mod debezium;
mod json;
mod number;
mod object;
mod output;
mod raw;
mod time;
mod write;

#[cfg(test)]
mod tests;

/// Every format, by the names that `WITH (format = …)` takes.
pub fn formats() -> Vec<Arc<dyn Format>> {
    vec![
        Arc::new(debezium::Debezium { name: "debezium" }),
        Arc::new(debezium::Debezium { name: "debezium-json" }),
        Arc::new(json::Json),
        Arc::new(raw::Raw),
    ]
}

/// Bytes of keys and values that one call decodes; callers hand over far less. Arrow's text columns end at 2 GiB.
const RUN_BYTES_MAX: usize = 256 << 20;

/// No format has options yet.
fn check_options(format: &str, options: &BTreeMap<String, String>) -> Result<(), String> {
    match options.keys().next() {
        Some(name) => Err(format!("the format {format} has no option {name:?}")),
        None => Ok(()),
    }
}

/// Refuses a run of records too large for one batch of columns.
fn check_run(records: &[log::RecordView]) -> Result<(), DecodeError> {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let mut total = 0;
    for record in records {
        total += len(&record.key) + len(&record.value) + record.headers.len();
        if total > RUN_BYTES_MAX {
            let reason = format!("the records up to here hold more than {RUN_BYTES_MAX} bytes in one run");
            return Err(DecodeError { offset: record.offset, reason });
        }
    }
    Ok(())
}

/// The bytes of a key or a value as text.
fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to()))
}
