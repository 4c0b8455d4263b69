//! From scores to gates that are 0 or 1: never beyond what is allowed, and nothing left over that another unit would fit into.

/// Opens units by their scores, the highest first, as long as they fit into `allowed`; one that does not fit is passed over for smaller ones.
pub fn choose(scores: &[f32], costs: &[f64], allowed: f64) -> Vec<bool> {
    let mut open = vec![false; scores.len()];
    let mut left = allowed;
    for unit in ranking(scores) {
        if costs[unit] <= left {
            open[unit] = true;
            left -= costs[unit];
        }
    }
    open
}

/// Indexes by falling score; equal ones in their order.
pub fn ranking(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// The units with the largest sum of `worth` that together cost at most `allowed`: a 0/1 knapsack, solved exactly over whole costs.
/// Equal sums prefer the earlier units.
pub fn knapsack(worth: &[f64], costs: &[f64], allowed: f64) -> Vec<bool> {
    let costs: Vec<usize> = costs.iter().map(|cost| *cost as usize).collect();
    let allowed = (allowed.max(0.0) as usize).min(costs.iter().sum());
    // best[c]: largest worth at a cost of at most c; taken[u][c]: whether unit u is part of it.
    let mut best = vec![0f64; allowed + 1];
    let mut taken = vec![vec![false; allowed + 1]; costs.len()];
    for (unit, cost) in costs.iter().enumerate() {
        for c in (*cost..=allowed).rev() {
            let value = best[c - cost] + worth[unit];
            if value > best[c] {
                best[c] = value;
                taken[unit][c] = true;
            }
        }
    }
    let mut chosen = vec![false; costs.len()];
    let mut left = allowed;
    for unit in (0..costs.len()).rev() {
        if taken[unit][left] {
            chosen[unit] = true;
            left -= costs[unit];
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;
    use rand::RngExt;

    fn cost(open: &[bool], costs: &[f64]) -> f64 {
        let open = open.iter().zip(costs).filter(|(open, _)| **open);
        open.map(|(_, cost)| cost).sum()
    }

    #[test]
    fn the_knapsack_is_the_best_of_all_that_fit() {
        let mut rng = generator(5, &[]);
        for _ in 0..200 {
            let costs: Vec<f64> = (0..9).map(|_| f64::from(rng.random_range(1..40))).collect();
            let worth: Vec<f64> = (0..9).map(|_| rng.random_range(0.0..9.0)).collect();
            let allowed = f64::from(rng.random_range(0..120));
            let sum = |open: &[bool]| cost(open, &worth);
            let chosen = knapsack(&worth, &costs, allowed);
            assert!(cost(&chosen, &costs) <= allowed);
            for bits in 0..512u32 {
                let other: Vec<bool> = (0..9).map(|u| bits >> u & 1 == 1).collect();
                assert!(cost(&other, &costs) > allowed || sum(&other) <= sum(&chosen) + 1e-9);
            }
        }
    }

    #[test]
    fn the_budget_is_never_exceeded_and_filled_to_the_smallest_unit() {
        let mut rng = generator(6, &[]);
        for case in 0..300 {
            let units = rng.random_range(1..400);
            let costs: Vec<f64> = (0..units).map(|_| rng.random_range(1.0..9.0)).collect();
            let scores: Vec<f32> = (0..units).map(|_| rng.random()).collect();
            let allowed = rng.random_range(0.0..1.2) * costs.iter().sum::<f64>();
            let open = choose(&scores, &costs, allowed);
            let left = allowed - cost(&open, &costs);
            assert!(left >= -1e-9, "case {case}: {left}");
            let smallest = open.iter().zip(&costs).filter(|(open, _)| !**open);
            let smallest = smallest.map(|(_, cost)| *cost).fold(f64::MAX, f64::min);
            assert!(
                left < smallest,
                "case {case}: {left} left, a unit of {smallest} would fit"
            );
        }
    }

    #[test]
    fn higher_scores_come_first() {
        let scores: Vec<f32> = (0..100).map(|unit| -(unit as f32)).collect();
        let open = choose(&scores, &[1.0; 100], 30.5);
        assert!(open[..30].iter().all(|open| *open) && !open[30..].iter().any(|open| *open));
    }
}
