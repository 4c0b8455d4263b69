//! Confidence intervals of counts: alarms per hour (exact Poisson), words found (exact binomial) and shares of correct answers (Wilson).

/// Exact (Garwood) interval of an event rate per hour after `count` events in `hours` hours, two-sided, at `confidence` in (0, 1), mostly 0.95.
///
/// Both tails get (1 - confidence) / 2; the lower end of count 0 is 0. Ten minutes without an event give (0, 22.1); for "no better than" after a
/// silent run see [`poisson_upper`]. Without any audio (`hours` not above 0) nothing is known: (0, infinity).
///
/// Source: F. Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28 (1936).
pub fn poisson_interval(count: u64, hours: f64, confidence: f64) -> (f64, f64) {
    let tail = (1.0 - confidence) / 2.0;
    if hours.is_nan() || hours <= 0.0 {
        return (0.0, f64::INFINITY);
    }
    // The smallest mean under which so many events are not too rare, and the largest under which so few are not.
    let low = if count == 0 {
        0.0
    } else {
        mean_where(count - 1, 1.0 - tail)
    };
    (low / hours, mean_where(count, tail) / hours)
}

/// One-sided exact upper bound of an event rate per hour: the rate is below it with probability `confidence`. Ten minutes without an event prove no
/// better than 18 per hour at 0.95.
pub fn poisson_upper(count: u64, hours: f64, confidence: f64) -> f64 {
    if hours.is_nan() || hours <= 0.0 {
        f64::INFINITY
    } else {
        mean_where(count, 1.0 - confidence) / hours
    }
}

/// The mean for which a Poisson variable is at most `count` with the given probability, by bisection: the probability falls with the mean.
fn mean_where(count: u64, probability: f64) -> f64 {
    let (mut low, mut high) = (0.0, 2.0 * count as f64 + 40.0);
    while high - low > 1e-12 * high {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if poisson_cdf(count, middle) > probability {
            low = middle
        } else {
            high = middle
        }
    }
    0.5 * (low + high)
}

/// P(X <= count) for a Poisson variable X of the given mean.
fn poisson_cdf(count: u64, mean: f64) -> f64 {
    // Summed from the largest term down, relative to it, so that neither end of the range underflows.
    let peak = count.min(mean as u64);
    let log_peak =
        peak as f64 * mean.ln() - mean - (1..=peak).map(|n| (n as f64).ln()).sum::<f64>();
    let mut sum = 1.0;
    let mut term = 1.0;
    for n in (1..=peak).rev() {
        term *= n as f64 / mean;
        sum += term;
        if term < 1e-18 {
            break;
        }
    }
    term = 1.0;
    for n in peak + 1..=count {
        term *= mean / n as f64;
        sum += term;
        if term < 1e-18 {
            break;
        }
    }
    (log_peak.exp() * sum).min(1.0)
}

/// Exact (Clopper-Pearson) interval of a share after `count` of `total` independent trials, two-sided, at `confidence` in (0, 1); (0, 1) without trials.
///
/// Source: C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
pub fn binomial_interval(count: usize, total: usize, confidence: f64) -> (f64, f64) {
    let tail = (1.0 - confidence) / 2.0;
    // The smallest share under which so many are not too many, and the largest under which so few are not too few.
    let low = match count {
        0 => 0.0,
        count => share_where(count - 1, total, 1.0 - tail),
    };
    let high = match count {
        count if count >= total => 1.0,
        count => share_where(count, total, tail),
    };
    (low, high)
}

/// The share under which at most `count` of `total` have the given probability, by bisection: the probability falls with the share.
fn share_where(count: usize, total: usize, probability: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if binomial_cdf(count, total, middle) > probability {
            low = middle
        } else {
            high = middle
        }
    }
    0.5 * (low + high)
}

/// P(X <= count) for a binomial variable X of `total` trials, each with probability `share` in (0, 1).
fn binomial_cdf(count: usize, total: usize, share: f64) -> f64 {
    let (yes, no) = (share.ln(), (-share).ln_1p());
    let mut log_ways = 0.0;
    let mut sum = 0.0;
    for n in 0..=count {
        sum += (log_ways + n as f64 * yes + (total - n) as f64 * no).exp();
        log_ways += ((total - n) as f64).ln() - ((n + 1) as f64).ln();
    }
    sum.min(1.0)
}

/// Wilson's 95 % interval of a share after `correct` of `total` independent trials, within [0, 1]; (0, 1) without trials.
///
/// Clips of few speakers are not independent: the true uncertainty is larger.
/// Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
pub fn wilson_interval(correct: usize, total: usize) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_963_984_540_054;
    let n = total as f64;
    let share = correct as f64 / n;
    let centre = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (
        ((centre - half) / scale).max(0.0),
        ((centre + half) / scale).min(1.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64, tolerance: f64) {
        assert!(
            (found - expected).abs() <= tolerance,
            "expected {expected}, found {found}"
        );
    }

    /// Garwood's table, as in R: `qchisq(c(.025, .975), c(2 * k, 2 * k + 2)) / 2`.
    #[test]
    fn poisson_intervals_are_the_published_ones() {
        for (count, low, high) in [
            (0, 0.0, 3.6889),
            (1, 0.0253, 5.5716),
            (2, 0.2422, 7.2247),
            (10, 4.7954, 18.3904),
            (100, 81.3640, 121.6268),
        ] {
            let (found_low, found_high) = poisson_interval(count, 1.0, 0.95);
            near(found_low, low, 1e-4);
            near(found_high, high, 2e-4);
        }
        let (low, high) = poisson_interval(1_000_000, 1.0, 0.95);
        assert!(
            low > 998_000.0 && low < 998_100.0 && high > 1_001_900.0 && high < 1_002_000.0,
            "{low} {high}"
        );
    }

    #[test]
    fn binomial_intervals_are_the_published_ones() {
        // R: binom.test(count, total)$conf.int.
        for (count, total, low, high) in [
            (0, 10, 0.0, 0.308_498_49),
            (10, 10, 0.691_501_5, 1.0),
            (7, 10, 0.347_547_1, 0.933_260_6),
            (70, 72, 0.903_206_0, 0.996_616_4),
            (450, 1_000, 0.418_843_7, 0.481_452_7),
        ] {
            let (found_low, found_high) = binomial_interval(count, total, 0.95);
            near(found_low, low, 1e-4);
            near(found_high, high, 1e-4);
        }
        assert_eq!(binomial_interval(0, 0, 0.95), (0.0, 1.0));
    }

    #[test]
    fn ten_silent_minutes_prove_no_better_than_18_per_hour() {
        near(poisson_upper(0, 1.0 / 6.0, 0.95), 17.97, 0.01);
        near(poisson_interval(0, 1.0 / 6.0, 0.95).1, 22.13, 0.01);
        assert_eq!(poisson_interval(3, 0.0, 0.95), (0.0, f64::INFINITY));
    }

    #[test]
    fn wilson_intervals_are_the_published_ones() {
        // R: binom.confint(70, 72, methods = "wilson").
        let (low, high) = wilson_interval(70, 72);
        near(low, 0.904, 5e-4);
        near(high, 0.992, 5e-4);
        assert_eq!(wilson_interval(0, 0), (0.0, 1.0));
        assert_eq!(wilson_interval(0, 10).0, 0.0);
        near(wilson_interval(10, 10).1, 1.0, 1e-12);
    }
}
