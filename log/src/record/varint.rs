//! Zig-zag variable length integers, as records use them: 7 bits a byte, least significant first.

/// Appends `value` in the varlong form; small varints have the same bytes.
pub(crate) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes that [`put`] appends.
pub(crate) fn size(value: i64) -> usize {
    let bits = 64 - (((value << 1) ^ (value >> 63)) as u64 | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads a varlong at `*at` and moves `*at` behind it; `None` when the bytes end first or it is over 64 bits long.
pub(crate) fn get(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Reads a varint: as [`get`], and the value must fit in 32 bits.
pub(crate) fn get_i32(bytes: &[u8], at: &mut usize) -> Option<i32> {
    get(bytes, at).and_then(|value| i32::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for value in [0, -1, 1, 63, 64, -64, -65, 8191, 8192, i64::from(i32::MAX), i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(bytes.len(), size(value), "{value}");
            let mut at = 0;
            assert_eq!(get(&bytes, &mut at), Some(value));
            assert_eq!(at, bytes.len());
            assert_eq!(get(&bytes[..bytes.len() - 1], &mut 0), None);
        }
        assert_eq!(get(&[0xff; 10], &mut 0), None);
    }
}
