//! PostgreSQL's binary `numeric`: groups of four decimal digits, from and to a scaled 128-bit integer.
//!
//! ```text
//! i16 count of groups │ i16 weight of the first (power of 10,000) │ u16 sign │ u16 scale to show │ i16 group …
//! ```

use bytes::{Buf, BufMut, BytesMut};

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
/// Groups of four digits that a 39-digit number may touch, wherever its point stands.
const GROUPS_MAX: usize = 11;

/// Writes `value / 10^scale`; `scale` is 0 ..= 38.
pub fn write(value: i128, scale: u8, out: &mut BytesMut) {
    let sign = if value < 0 { NEGATIVE } else { POSITIVE };
    let mut rest = value.unsigned_abs();
    // Digits behind the point are padded to whole groups, so that groups and point line up.
    let padding = (4 - scale % 4) % 4;
    let fraction_groups = usize::from(scale.div_ceil(4));
    let mut groups = [0i16; GROUPS_MAX];
    let mut count = 0;
    if padding > 0 && rest > 0 {
        let low = 10u128.pow(u32::from(4 - padding));
        groups[count] = ((rest % low) * 10u128.pow(u32::from(padding))) as i16;
        rest /= low;
        count += 1;
    }
    while rest > 0 {
        groups[count] = (rest % 10_000) as i16;
        rest /= 10_000;
        count += 1;
    }
    let weight = count as i16 - fraction_groups as i16 - 1;
    // The wire leaves out zero groups at the end.
    let first = groups[..count].iter().position(|g| *g != 0).unwrap_or(count);
    let shown = &groups[first..count];
    out.put_i16(shown.len() as i16);
    out.put_i16(if shown.is_empty() { 0 } else { weight });
    out.put_u16(sign);
    out.put_u16(u16::from(scale));
    for group in shown.iter().rev() {
        out.put_i16(*group);
    }
}

/// Reads a numeric as (value, scale); what does not fit in 38 digits, NaN and infinities are errors.
pub fn read(mut bytes: &[u8]) -> Result<(i128, u8), &'static str> {
    if bytes.len() < 8 {
        return Err("numeric ends too early");
    }
    let count = usize::from(bytes.get_u16());
    let weight = i32::from(bytes.get_i16());
    let sign = bytes.get_u16();
    let scale = i32::from(bytes.get_u16());
    match sign {
        POSITIVE | NEGATIVE => {}
        NAN => return Err("NaN is not a number here"),
        _ => return Err("infinity is not a number here"),
    }
    if bytes.len() != count * 2 {
        return Err("numeric has another length than it says");
    }
    let mut value = 0i128;
    // Zeros seen since the last other digit: they count only when another follows, or the shown scale asks for them.
    let mut zeros = 0u32;
    for _ in 0..count {
        let group = bytes.get_i16();
        if !(0..10_000).contains(&group) {
            return Err("numeric has an invalid digit");
        }
        for unit in [1000, 100, 10, 1] {
            let digit = i128::from(group / unit % 10);
            if digit == 0 {
                zeros += u32::from(value != 0);
                continue;
            }
            let shift = 10i128.checked_pow(zeros + 1).ok_or(TOO_LARGE)?;
            value = value.checked_mul(shift).and_then(|v| v.checked_add(digit)).ok_or(TOO_LARGE)?;
            zeros = 0;
        }
    }
    // Power of ten of the last digit of `value`.
    let mut exponent = (weight + 1 - count as i32) * 4 + zeros as i32;
    if value == 0 {
        return u8::try_from(scale).ok().filter(|s| *s <= 38).map(|s| (0, s)).ok_or(TOO_LARGE);
    }
    while exponent > -scale {
        value = value.checked_mul(10).ok_or(TOO_LARGE)?;
        exponent -= 1;
    }
    let scale = u8::try_from(-exponent).ok().filter(|s| *s <= 38).ok_or(TOO_LARGE)?;
    if value.unsigned_abs() >= 10u128.pow(38) {
        return Err(TOO_LARGE);
    }
    Ok((if sign == NEGATIVE { -value } else { value }, scale))
}

const TOO_LARGE: &str = "numeric has more than 38 digits";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: i128, scale: u8, expect: &[i16]) {
        let mut out = BytesMut::new();
        write(value, scale, &mut out);
        let words: Vec<i16> = out.chunks(2).map(|b| i16::from_be_bytes([b[0], b[1]])).collect();
        assert_eq!(words, expect, "{value} scale {scale}");
        assert_eq!(read(&out), Ok((value, scale)));
    }

    #[test]
    fn both_ways() {
        check(0, 0, &[0, 0, 0, 0]);
        check(0, 2, &[0, 0, 0, 2]);
        check(1, 0, &[1, 0, 0, 0, 1]);
        check(12_345, 2, &[2, 0, 0, 2, 123, 4_500]);
        check(-12_345, 2, &[2, 0, 0x4000, 2, 123, 4_500]);
        check(10_000, 0, &[1, 1, 0, 0, 1]);
        check(1, 4, &[1, -1, 0, 4, 1]);
        check(5, 10, &[1, -3, 0, 10, 500]);
        check(25_000_000_000, 10, &[2, 0, 0, 10, 2, 5_000]);
    }

    #[test]
    fn the_largest() {
        for value in [10i128.pow(38) - 1, 1 - 10i128.pow(38)] {
            for scale in 0..=38 {
                let mut out = BytesMut::new();
                write(value, scale, &mut out);
                assert_eq!(read(&out), Ok((value, scale)));
            }
        }
    }

    #[test]
    fn refused() {
        assert_eq!(read(&[0, 0, 0, 0, 0xc0, 0, 0, 0]), Err("NaN is not a number here"));
        assert_eq!(read(&[0, 9, 0, 0, 0, 0, 0, 0]), Err("numeric has another length than it says"));
        assert_eq!(read(&[0, 1, 0x7f, 0xff, 0, 0, 0, 0, 0, 1]), Err(TOO_LARGE));
        assert_eq!(read(&[]), Err("numeric ends too early"));
    }
}
