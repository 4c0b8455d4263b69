//! Several frames side by side: a number per frame, so that one pass through FFT and mel bank serves all of them.
//!
//! Every lane goes through exactly the operations that a single f32 would, in the same order: the same bits, a vector at a time.

use core::ops::{Add, Div, Mul, Neg, Rem, Sub};

#[cfg(feature = "std")]
use num_traits::{FromPrimitive, Signed};
use num_traits::{Num, One, Zero};

/// Frames that are transformed together: a vector of SSE2 and of NEON, which every x86-64 and aarch64 machine has.
pub(super) const LANES: usize = 4;

/// One f32 of each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(16))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

impl Lanes {
    /// The same number in every lane.
    #[inline(always)]
    pub(super) fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(core::array::from_fn(|i| operation(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn map(self, operation: impl Fn(f32) -> f32) -> Self {
        Self(self.0.map(operation))
    }
}

macro_rules! lane_by_lane {
    ($($operation:ident $method:ident),*) => {$(
        impl $operation for Lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, $operation::$method)
            }
        }
    )*};
}
lane_by_lane!(Add add, Sub sub, Mul mul, Div div, Rem rem);

impl Neg for Lanes {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        self.map(Neg::neg)
    }
}

// What complex numbers ask of a number beyond arithmetic.

impl Zero for Lanes {
    fn zero() -> Self {
        Self::splat(0.0)
    }

    fn is_zero(&self) -> bool {
        *self == Self::zero()
    }
}

impl One for Lanes {
    fn one() -> Self {
        Self::splat(1.0)
    }
}

impl Num for Lanes {
    type FromStrRadixErr = <f32 as Num>::FromStrRadixErr;

    fn from_str_radix(text: &str, radix: u32) -> Result<Self, Self::FromStrRadixErr> {
        f32::from_str_radix(text, radix).map(Self::splat)
    }
}

// And rustfft; its transforms use `from_f64`, for their constants.

#[cfg(feature = "std")]
impl Signed for Lanes {
    fn abs(&self) -> Self {
        self.map(f32::abs)
    }

    fn abs_sub(&self, other: &Self) -> Self {
        self.zip(*other, |a, b| (a - b).max(0.0))
    }

    fn signum(&self) -> Self {
        self.map(f32::signum)
    }

    fn is_positive(&self) -> bool {
        self.0.iter().all(|value| *value > 0.0)
    }

    fn is_negative(&self) -> bool {
        self.0.iter().all(|value| *value < 0.0)
    }
}

#[cfg(feature = "std")]
impl FromPrimitive for Lanes {
    fn from_i64(value: i64) -> Option<Self> {
        Some(Self::splat(value as f32))
    }

    fn from_u64(value: u64) -> Option<Self> {
        Some(Self::splat(value as f32))
    }

    fn from_f32(value: f32) -> Option<Self> {
        Some(Self::splat(value))
    }

    fn from_f64(value: f64) -> Option<Self> {
        Some(Self::splat(value as f32))
    }
}
