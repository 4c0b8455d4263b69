//! Logits to posteriors, the same bits on every machine, in operations that compilers make vectors of.

/// Sums are taken in so many lanes, whatever the machine's vectors hold.
const LANES: usize = 8;

/// Logits to posteriors in place. Where one is not finite, all are not a number.
pub(crate) fn softmax(values: &mut [f32]) {
    let largest = values.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for value in values.iter_mut() {
        *value = exp(*value - largest);
    }
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(sum, v)| *sum += v);
    }
    lanes.iter_mut().zip(rest).for_each(|(sum, v)| *sum += v);
    let scale = 1.0 / lanes.iter().sum::<f32>();
    values.iter_mut().for_each(|value| *value *= scale);
}

/// Added to a number below 2^22, it rounds it to an integer and leaves that in the lowest bits.
const ROUNDING: f32 = 12_582_912.0;
/// ln 2 in two parts: the first has zeros at its end, so that its product with a small integer is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Below, the result would be no normal number.
const LOWEST: f32 = -87.0;

/// e^x for x at most 0, to within 2 units in the last place; 0 below -87. NaN stays NaN.
///
/// x = n ln 2 + r, and e^r by the Taylor polynomial of degree 7, of which |r| <= ln 2 / 2 leaves off less than 5e-9 (Cody and Waite, Software Manual for the
/// Elementary Functions, 1980, chapter 6).
fn exp(x: f32) -> f32 {
    let rounded = x * core::f32::consts::LOG2_E + ROUNDING;
    let n = rounded - ROUNDING;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let mut e = 1.0 / 5_040.0;
    for divisor in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        e = e * r + 1.0 / divisor;
    }
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let e = e * power;
    // Written so that NaN takes the second way.
    if x < LOWEST { 0.0 } else { e }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_libm_to_two_units_in_the_last_place() {
        let mut worst = 0;
        for step in 0..=870_000u32 {
            let x = -(step as f32) * 1e-4;
            let (ours, exact) = (exp(x), libm::exp(f64::from(x)) as f32);
            worst = worst.max(ours.to_bits().abs_diff(exact.to_bits()));
        }
        assert!(worst <= 2, "{worst} units");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-88.0), exp(-1e9), exp(f32::NEG_INFINITY)], [0.0; 3]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn posteriors_are_shares_and_keep_the_order() {
        for classes in [3, 8, 12, 49] {
            let logits: Vec<f32> = (0..classes).map(|i| (i * 7 % 13) as f32 - 9.0).collect();
            let mut posteriors = logits.clone();
            softmax(&mut posteriors);
            let sum: f64 = posteriors.iter().map(|p| f64::from(*p)).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{classes}: {sum}");
            for (a, b) in (0..classes).zip(1..classes) {
                assert_eq!(logits[a] < logits[b], posteriors[a] < posteriors[b]);
            }
        }
    }

    #[test]
    fn what_is_not_finite_makes_no_posterior() {
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut values = [0.0, wrong, 1.0];
            softmax(&mut values);
            assert!(values.iter().all(|v| v.is_nan()), "{values:?}");
        }
        let mut values = [0.0, f32::NEG_INFINITY];
        softmax(&mut values);
        assert_eq!(values, [1.0, 0.0]);
    }
}
