//! [`Exact`]: a sum of floats without any rounding, so that neither order nor taking away can be seen in it.

use super::take;
use crate::error::Error;

/// A sum of weighted floats as one long integer that counts units of 2^-1074, the smallest float there is, in two's
/// complement: limb `i` counts 2^(64 (base + i)) units, the last one carries the sign. Only the limbs in use are there:
/// a double spans 2098 bits, with weights and carries at most 36 limbs. Infinities and NaNs are counted beside.
#[derive(Clone, Debug, Default)]
pub(super) struct Exact {
    limbs: Vec<u64>,
    base: u8,
    /// +infinity, -infinity, NaN. There are few, so most sums have none of the three.
    special: Option<Box<[i64; 3]>>,
}

/// A sum of finite floats that is too large for a float.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Limbs that a double times a weight covers: 53 + 63 bits, shifted by up to 63, and a sign.
const TERM_LIMBS: usize = 3;

impl Exact {
    /// Adds `value`, `weight` times.
    pub(super) fn add(&mut self, value: f64, weight: i64) -> Result<(), Error> {
        if !value.is_finite() {
            return self.add_special(value, weight);
        }
        let bits = value.to_bits();
        let (exponent, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
        let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
        if mantissa == 0 || weight == 0 {
            return Ok(());
        }
        let product = i128::from(mantissa) * i128::from(weight);
        let product = if value < 0.0 { -product } else { product };
        let shift = exponent.max(1) - 1;
        self.add_term((shift / 64) as u8, term(product, (shift % 64) as u32));
        Ok(())
    }

    fn add_special(&mut self, value: f64, weight: i64) -> Result<(), Error> {
        let counts = self.special.get_or_insert_default();
        let which = if value.is_nan() { 2 } else { usize::from(value < 0.0) };
        counts[which] = super::count::add(counts[which], weight)?;
        if **counts == [0; 3] {
            self.special = None;
        }
        Ok(())
    }

    /// Adds limbs that begin at limb `at`.
    fn add_term(&mut self, at: u8, term: [u64; TERM_LIMBS]) {
        if self.limbs.is_empty() {
            self.base = at;
        }
        if at < self.base {
            let more = usize::from(self.base - at);
            self.limbs.splice(0..0, std::iter::repeat_n(0, more));
            self.base = at;
        }
        let from = usize::from(at - self.base);
        let sign = sign(&self.limbs);
        if self.limbs.len() < from + TERM_LIMBS {
            self.limbs.resize(from + TERM_LIMBS, sign);
        }
        let term_sign = self::sign(&term);
        let mut carry = false;
        for (index, limb) in self.limbs[from..].iter_mut().enumerate() {
            let (sum, over) = limb.overflowing_add(term.get(index).copied().unwrap_or(term_sign));
            let (sum, over_again) = sum.overflowing_add(carry.into());
            *limb = sum;
            carry = over || over_again;
        }
        if sign == term_sign && self::sign(&self.limbs) != sign {
            self.limbs.push(sign);
        }
    }

    /// Adds another sum: its limbs are terms, and a negative one lacks a limb of ones above them.
    pub(super) fn add_all(&mut self, other: &Self) -> Result<(), Error> {
        for (at, limb) in (other.base..).zip(&other.limbs) {
            self.add_term(at, [*limb, 0, 0]);
        }
        if sign(&other.limbs) != 0 {
            self.add_term(other.base + other.limbs.len() as u8, [u64::MAX; TERM_LIMBS]);
        }
        for (value, count) in
            [f64::INFINITY, f64::NEG_INFINITY, f64::NAN].into_iter().zip(other.special.as_deref().unwrap_or(&[0; 3]))
        {
            if *count != 0 {
                self.add_special(value, *count)?;
            }
        }
        Ok(())
    }

    /// Whether nothing is left: all that came has gone.
    pub(super) fn is_zero(&self) -> bool {
        self.special.is_none() && self.limbs.iter().all(|limb| *limb == 0)
    }

    /// Whether an infinity or NaN is there less often than never.
    pub(super) fn negative(&self) -> bool {
        self.special.as_ref().is_some_and(|counts| counts.iter().any(|count| *count < 0))
    }

    /// The nearest float, ties to even; as PostgreSQL has it for infinities and NaN.
    pub(super) fn round(&self) -> Result<f64, TooLarge> {
        if let Some(counts) = &self.special {
            return Ok(match **counts {
                [0, _, 0] => f64::NEG_INFINITY,
                [_, 0, 0] => f64::INFINITY,
                _ => f64::NAN,
            });
        }
        let negative = sign(&self.limbs) != 0;
        let magnitude = if negative { negate(&self.limbs) } else { self.limbs.clone() };
        let Some(top) = magnitude.iter().rposition(|limb| *limb != 0) else {
            return Ok(0.0);
        };
        let low = 64 * usize::from(self.base);
        let highest = low + 64 * top + 63 - magnitude[top].leading_zeros() as usize;
        let sign = u64::from(negative) << 63;
        if highest < 53 {
            // Below 2^53 units the bits of a float are the count of units.
            return Ok(f64::from_bits(sign | magnitude[0]));
        }
        let shift = highest - 52;
        let mut mantissa = bits(&magnitude, low, shift);
        let half = bits(&magnitude, low, shift - 1) & 1 == 1;
        let beyond = (0..magnitude.len()).any(|limb| below(magnitude[limb], low + 64 * limb, shift - 1) != 0);
        if half && (beyond || mantissa & 1 == 1) {
            mantissa += 1;
        }
        // A mantissa that became 2^53 carries into the exponent by itself.
        let bits = ((shift as u64) << 52) + mantissa;
        if bits >= f64::INFINITY.to_bits() { Err(TooLarge) } else { Ok(f64::from_bits(sign | bits)) }
    }

    /// Layout: base, limb count, limbs; then 0, or 1 and the three counts; integers big endian.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.base, self.limbs.len() as u8]);
        self.limbs.iter().for_each(|limb| out.extend_from_slice(&limb.to_be_bytes()));
        out.push(self.special.is_some().into());
        self.special
            .iter()
            .flat_map(|counts| counts.iter())
            .for_each(|count| out.extend_from_slice(&count.to_be_bytes()));
    }

    pub(super) fn load(from: &mut &[u8]) -> Result<Self, Error> {
        let [base, len] = take(from)?;
        let limbs = (0..len).map(|_| take(from).map(u64::from_be_bytes)).collect::<Result<_, _>>()?;
        let special = match take(from)? {
            [0u8] => None,
            _ => {
                let mut count = || take(from).map(i64::from_be_bytes);
                Some(Box::new([count()?, count()?, count()?]))
            }
        };
        Ok(Self { limbs, base, special })
    }

    /// Bytes besides the struct's own, about.
    pub(super) fn heap_bytes(&self) -> usize {
        self.limbs.capacity() * size_of::<u64>() + self.special.as_ref().map_or(0, |counts| size_of_val(&**counts))
    }
}

/// All ones for a negative number, else zero.
fn sign(limbs: &[u64]) -> u64 {
    match limbs.last() {
        Some(last) if last >> 63 == 1 => u64::MAX,
        _ => 0,
    }
}

/// `product` times 2^`shift`, shift below 64.
fn term(product: i128, shift: u32) -> [u64; TERM_LIMBS] {
    let low = (product << shift) as u128;
    let high = (product >> 64) >> (64 - shift);
    [low as u64, (low >> 64) as u64, high as u64]
}

fn negate(limbs: &[u64]) -> Vec<u64> {
    let mut carry = true;
    let negated = limbs.iter().map(|limb| {
        let (sum, over) = (!limb).overflowing_add(carry.into());
        carry = over;
        sum
    });
    negated.collect()
}

/// The 64 bits of the number from bit `from` on; bit `low` is the lowest that is there.
fn bits(limbs: &[u64], low: usize, from: usize) -> u64 {
    let limb = |index: usize| limbs.get(index).copied().unwrap_or(0);
    let Some(from) = from.checked_sub(low) else {
        return match low - from {
            less @ 0..64 => limb(0) << less,
            _ => 0,
        };
    };
    let (index, shift) = (from / 64, from % 64);
    match shift {
        0 => limb(index),
        _ => limb(index) >> shift | limb(index + 1) << (64 - shift),
    }
}

/// The bits of a limb that lie below bit `end` of the number; `at` is where the limb begins.
fn below(limb: u64, at: usize, end: usize) -> u64 {
    match end.saturating_sub(at) {
        0 => 0,
        width @ 1..64 => limb & ((1 << width) - 1),
        _ => limb,
    }
}

#[cfg(test)]
mod tests {
    //! Against another exact sum (Shewchuk's growing expansion of partial sums, rounded once).

    use proptest::prelude::*;

    use super::*;

    /// The exact sum of finite floats, rounded once; right while no partial sum overflows.
    fn expansion(values: &[f64]) -> f64 {
        let mut partials: Vec<f64> = Vec::new();
        for value in values {
            let mut x = *value;
            let mut kept = Vec::new();
            for y in partials {
                let (large, small) = if x.abs() < y.abs() { (y, x) } else { (x, y) };
                let sum = large + small;
                let rest = small - (sum - large);
                if rest != 0.0 {
                    kept.push(rest);
                }
                x = sum;
            }
            kept.push(x);
            partials = kept;
        }
        let Some(mut sum) = partials.pop() else { return 0.0 };
        let mut rest = 0.0;
        while let Some(next) = partials.pop() {
            let before = sum;
            sum = before + next;
            rest = next - (sum - before);
            if rest != 0.0 {
                break;
            }
        }
        // A tie is decided by what lies beyond it.
        if partials.last().is_some_and(|beyond| (rest < 0.0) == (*beyond < 0.0)) {
            let twice = rest * 2.0;
            let other = sum + twice;
            if other - sum == twice {
                sum = other;
            }
        }
        sum
    }

    fn float() -> impl Strategy<Value = f64> {
        prop_oneof![
            prop::num::f64::NORMAL.prop_map(|f| f / 1024.0),
            prop::num::f64::SUBNORMAL,
            prop::num::f64::NORMAL.prop_map(|f| f64::from_bits(f.to_bits() & !(0x7ff << 52) | 1020 << 52)),
            prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, f64::EPSILON / 2.0, f64::MIN_POSITIVE, f64::MAX / 1024.0]),
        ]
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_forget_what_goes(values in prop::collection::vec(float(), 0..40), gone in any::<u64>()) {
            let mut sum = Exact::default();
            values.iter().for_each(|value| sum.add(*value, 1).unwrap());
            prop_assert_eq!(sum.round().unwrap(), expansion(&values));
            let (gone, left): (Vec<_>, Vec<_>) = values.iter().enumerate().partition(|(at, _)| gone >> at & 1 == 1);
            gone.iter().for_each(|(_, value)| sum.add(**value, -1).unwrap());
            let left: Vec<f64> = left.iter().map(|(_, value)| **value).collect();
            prop_assert_eq!(sum.round().unwrap(), expansion(&left));
            let mut saved = Vec::new();
            sum.save(&mut saved);
            let mut sum = Exact::load(&mut saved.as_slice()).unwrap();
            left.iter().for_each(|value| sum.add(*value, -1).unwrap());
            prop_assert!(sum.is_zero());
            prop_assert_eq!(sum.round().unwrap().to_bits(), 0);
        }

        #[test]
        fn weights_multiply(value in float(), weight in -1000i64..1000) {
            let (mut once, mut each) = (Exact::default(), Exact::default());
            once.add(value, weight).unwrap();
            (0..weight.abs()).for_each(|_| each.add(value, weight.signum()).unwrap());
            prop_assert_eq!(once.round(), each.round());
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        let mut sum = Exact::default();
        sum.add(f64::MAX, 1).unwrap();
        assert_eq!(sum.round(), Ok(f64::MAX));
        sum.add(f64::MAX, i64::MAX).unwrap();
        assert_eq!(sum.round(), Err(TooLarge));
        sum.add(f64::MAX, -i64::MAX).unwrap();
        sum.add(5e-324, 1).unwrap();
        sum.add(f64::MAX, -1).unwrap();
        assert_eq!(sum.round(), Ok(5e-324));
        sum.add(f64::INFINITY, 1).unwrap();
        assert_eq!(sum.round(), Ok(f64::INFINITY));
        sum.add(f64::NEG_INFINITY, 1).unwrap();
        assert!(sum.round().unwrap().is_nan());
        sum.add(f64::INFINITY, -1).unwrap();
        assert_eq!(sum.round(), Ok(f64::NEG_INFINITY));
        sum.add(f64::NEG_INFINITY, -2).unwrap();
        assert!(sum.negative() && !sum.is_zero());
    }
}
