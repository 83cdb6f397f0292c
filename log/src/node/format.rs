//! The `format` file: whose a data directory is, and which binaries read it.

use std::path::Path;

use crate::Error;
use crate::env::{Disk, Env, Open, read_full};

/// What the first file of a data directory says: one JSON object with these fields. Version 0 (a log without segments) is
/// not read any more.
///
/// ```text
/// {
///   "version": 1,                              of everything in the directory
///   "oldest_reader": 1,                        a binary that knows no version so new refuses it
///   "cluster_id": "AQIDBAUGBwgJCgsMDQ4PEA",    128 bits in 22 digits of base64
///   "node_id": 1,
///   "disk_id": "ISIjJCUmJygpKissLS4vMA"
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Format {
    pub version: u32,
    pub oldest_reader: u32,
    pub cluster_id: String,
    pub node_id: i32,
    pub disk_id: String,
}

const FORMAT_VERSION: u32 = 1;

impl Format {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("the format can be written as JSON")
    }

    /// The error says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Format, String> {
        let format: Format = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if format.oldest_reader > FORMAT_VERSION {
            return Err(format!("version {} is newer than this binary reads", format.version));
        }
        if format.version < FORMAT_VERSION {
            let detail = "version 0 of the format was never promised to last: begin with another data directory";
            return Err(detail.to_owned());
        }
        Ok(format)
    }
}

/// The format of a data directory; of a new one it is drawn and written before anything else is.
pub(super) fn read_or_write_format(env: &Env, data_dir: &Path, node_id: i32) -> Result<Format, Error> {
    let path = data_dir.join("format");
    let corrupt = |detail: String| Error::Corrupt { place: path.display().to_string(), detail };
    match env.disk().open(&path, Open::Read) {
        Ok(file) => {
            let len = file.len()?;
            if len > 64 * 1024 {
                return Err(corrupt(format!("{len} bytes are too many")));
            }
            let mut bytes = vec![0; len as usize];
            read_full(&*file, 0, &mut bytes)?;
            Format::decode(&bytes).map_err(corrupt)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // It is written before anything else is.
            if !env.disk().list(&data_dir.join("wal"))?.is_empty() {
                return Err(corrupt("the file is missing, and there is a log".to_owned()));
            }
            let id = || url_base64_128(env.random_u64(), env.random_u64());
            let (cluster_id, disk_id) = (id(), id());
            let format =
                Format { version: FORMAT_VERSION, oldest_reader: FORMAT_VERSION, cluster_id, node_id, disk_id };
            let bytes = format.encode();
            let new = data_dir.join("format.new");
            match env.disk().unlink(&new) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let file = env.disk().open(&new, Open::Create)?;
            file.write_at(0, &[std::io::IoSlice::new(&bytes)])?;
            file.sync_data()?;
            // The directories may be new: nothing in them is durable before their own names are.
            sync_ancestors(&*env.disk(), data_dir)?;
            env.disk().rename(&new, &path)?;
            env.disk().sync_dir(data_dir)?;
            Ok(format)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the names on the way to `dir` durable. Passed over: directories that may not be read, and file systems that
/// cannot sync one, such as may stand above the volume that holds `dir`.
fn sync_ancestors(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    use std::io::ErrorKind::{InvalidInput, PermissionDenied};
    for ancestor in dir.ancestors().skip(1) {
        match disk.sync_dir(ancestor) {
            Err(error) if !matches!(error.kind(), InvalidInput | PermissionDenied) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// 128 bits as 22 characters, as Kafka writes its ids.
fn url_base64_128(high: u64, low: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = (u128::from(high) << 64) | u128::from(low);
    // 21 digits of six bits from the top, and the last two bits above four zeros.
    let top = (0..21).map(|digit| (bits >> (122 - 6 * digit)) & 63);
    top.chain([(bits & 3) << 4]).map(|six| char::from(DIGITS[six as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::FORMAT;

    #[test]
    fn the_first_file_is_read_for_ever_and_written_the_same_way() {
        let format = Format::decode(FORMAT.as_bytes()).unwrap();
        let (cluster_id, disk_id) = ("AQIDBAUGBwgJCgsMDQ4PEA".to_owned(), "ISIjJCUmJygpKissLS4vMA".to_owned());
        assert_eq!(format, Format { version: 1, oldest_reader: 1, cluster_id, node_id: 1, disk_id });
        assert_eq!(format.encode(), FORMAT.as_bytes());
        assert_eq!(url_base64_128(0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10), format.cluster_id);
    }

    #[test]
    fn newer_and_older_ones_are_refused_by_what_they_say() {
        let refused = |from: &str, to: &str| Format::decode(FORMAT.replace(from, to).as_bytes()).unwrap_err();
        assert!(refused("\"oldest_reader\": 1", "\"oldest_reader\": 2").contains("newer"));
        assert!(refused("\"version\": 1", "\"version\": 0").contains("version 0"));
        assert!(refused("\"version\": 1", "\"version\": 4294967296").contains("u32"));
        assert!(refused("\"node_id\"", "\"nod_id\"").contains("nod_id"));
        let newer = FORMAT.replace("\"version\": 1", "\"version\": 9");
        assert_eq!(Format::decode(newer.as_bytes()).unwrap().version, 9, "one that older binaries read as well");
    }

    #[test]
    fn a_log_without_the_file_is_not_taken_for_a_new_one() {
        let env = Env::simulated(1);
        let dir = Path::new("/data");
        env.disk().create_dir(&dir.join("wal")).unwrap();
        let first = read_or_write_format(&env, dir, 1).unwrap();
        assert_eq!(read_or_write_format(&env, dir, 1).unwrap(), first);
        env.disk().open(&dir.join("wal").join("0000000001.wal"), Open::Create).unwrap();
        env.disk().unlink(&dir.join("format")).unwrap();
        let told = read_or_write_format(&env, dir, 1).unwrap_err().to_string();
        assert!(told.contains("/data/format") && told.contains("missing"), "{told}");
    }
}
