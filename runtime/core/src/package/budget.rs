//! How much of a base a delta may change, as the user types it: `10%`, `10%all` or `4000B`.
//! Parsing, the number it allows for a given base, and what a delta uses of it.

use alloc::string::String;
use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Counts, PackageError};

/// Decimal places of a per cent budget; shares are kept as integers so that 29 % of 100 weights are 29 on every machine.
const PERCENT_DECIMALS: usize = 4;
/// 100 % in the unit of [`Limit`]'s shares.
const WHOLE: u64 = 1_000_000;

/// A budget; prints exactly as it was typed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Budget {
    typed: String,
    limit: Limit,
}

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `10%`: share of the base's convolution weights, in millionths.
    ConvolutionShare(u64),
    /// `10%all`: share of all of the base's weights, norms and classifier included, in millionths.
    AllShare(u64),
    /// `4000B`: bytes of the whole delta file.
    FileBytes(u64),
}

impl Budget {
    /// What the budget limits, and to how much.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The largest number of changed weights, or of bytes, that a base with the weights `base` allows; shares are rounded down.
    pub fn allowed(&self, base: &Counts) -> usize {
        let share = |millionths: u64, weights: usize| {
            (weights as u128 * u128::from(millionths) / u128::from(WHOLE)) as usize
        };
        match self.limit {
            Limit::ConvolutionShare(millionths) => share(millionths, base.convolution),
            Limit::AllShare(millionths) => share(millionths, base.all()),
            Limit::FileBytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        }
    }

    /// What a delta of `file_bytes` that changes `changed` weights uses of this budget, in the unit of [`Budget::allowed`].
    pub fn used(&self, changed: &Counts, file_bytes: usize) -> usize {
        match self.limit {
            Limit::ConvolutionShare(_) => changed.convolution,
            Limit::AllShare(_) => changed.all(),
            Limit::FileBytes(_) => file_bytes,
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.typed)
    }
}

impl FromStr for Budget {
    type Err = PackageError;

    fn from_str(typed: &str) -> Result<Self, PackageError> {
        let bad = |reason| PackageError::BadBudget {
            typed: typed.chars().take(40).collect(),
            reason,
        };
        let limit = if let Some(bytes) = typed.strip_suffix('B') {
            if !is_digits(bytes) {
                return Err(bad("the bytes are not a whole number"));
            }
            Limit::FileBytes(bytes.parse().map_err(|_| bad("the number is too large"))?)
        } else if let Some(percent) = typed.strip_suffix("%all") {
            Limit::AllShare(millionths(percent).map_err(bad)?)
        } else if let Some(percent) = typed.strip_suffix('%') {
            Limit::ConvolutionShare(millionths(percent).map_err(bad)?)
        } else {
            return Err(bad("no unit"));
        };
        Ok(Self {
            typed: typed.into(),
            limit,
        })
    }
}

/// `"12.5"` (per cent) as 125,000 millionths.
fn millionths(percent: &str) -> Result<u64, &'static str> {
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, "0"));
    if !is_digits(whole) || !is_digits(decimals) {
        return Err("the per cent are not a decimal number");
    }
    if decimals.len() > PERCENT_DECIMALS {
        return Err("more than four decimal places");
    }
    // At most three digits reach the multiplication, so it cannot overflow.
    if whole.len() > 3 {
        return Err("more than 100 per cent");
    }
    let digits = |text: &str| {
        text.bytes()
            .fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'))
    };
    let scale = 10u64.pow((PERCENT_DECIMALS - decimals.len()) as u32);
    let share = digits(whole) * (WHOLE / 100) + digits(decimals) * scale;
    if share > WHOLE {
        return Err("more than 100 per cent");
    }
    Ok(share)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl TryFrom<String> for Budget {
    type Error = PackageError;

    fn try_from(typed: String) -> Result<Self, PackageError> {
        typed.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.typed
    }
}
