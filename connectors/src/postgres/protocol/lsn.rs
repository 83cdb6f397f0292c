//! [`Lsn`], a place in the write-ahead log, and PostgreSQL's clock.

use std::fmt;
use std::str::FromStr;

/// Microseconds between 1970-01-01 and 2000-01-01, where PostgreSQL's clock begins.
const PG_EPOCH_US: i64 = 946_684_800_000_000;

/// A byte position in the write-ahead log; written `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = ();

    fn from_str(text: &str) -> Result<Lsn, ()> {
        let (high, low) = text.split_once('/').ok_or(())?;
        let part = |digits: &str| u32::from_str_radix(digits, 16).map_err(|_| ());
        Ok(Lsn(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

/// Microseconds since 1970 of a timestamp on PostgreSQL's wire; out of range is clamped.
pub fn from_pg_us(us: i64) -> i64 {
    us.saturating_add(PG_EPOCH_US)
}

/// The inverse of [`from_pg_us`].
pub fn to_pg_us(us: i64) -> i64 {
    us.saturating_sub(PG_EPOCH_US)
}

#[cfg(test)]
mod tests {
    use super::Lsn;

    #[test]
    fn reads_what_it_writes() {
        for (lsn, text) in [(Lsn(0), "0/0"), (Lsn(0x16_B374_D848), "16/B374D848"), (Lsn(u64::MAX), "FFFFFFFF/FFFFFFFF")]
        {
            assert_eq!(lsn.to_string(), text);
            assert_eq!(text.parse(), Ok(lsn));
        }
        for bad in ["", "1", "1/", "/1", "x/1", "1/100000000", "1/2/3"] {
            assert_eq!(bad.parse::<Lsn>(), Err(()), "{bad}");
        }
    }
}
