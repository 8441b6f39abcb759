//! Zipf's law over numbered keys: key `n` is drawn in proportion to `1 / (n + 1)^exponent`.
//!
//! The method is Gray's (SIGMOD 1994), which needs one sum over all keys at the start and nothing later.

use cairn_core::rng::Rng;

/// A distribution over `0..count`.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    count: f64,
    exponent: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    /// The law over `count` keys; `exponent` lies between 0 and 1.
    pub fn new(count: u64, exponent: f64) -> Self {
        let zeta = |count: u64| (1..=count).map(|n| (n as f64).powf(-exponent)).sum::<f64>();
        let (all, two) = (zeta(count), zeta(count.min(2)));
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - exponent)) / (1.0 - two / all);
        Self { count: count as f64, exponent, zeta: all, alpha: 1.0 / (1.0 - exponent), eta }
    }

    /// A key.
    pub fn pick(&self, rng: &mut Rng) -> u64 {
        // 53 bits, as many as a float holds.
        let uniform = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.exponent) {
            return 1.min(self.count as u64 - 1);
        }
        let key = self.count * (self.eta * (uniform - 1.0) + 1.0).powf(self.alpha);
        (key as u64).min(self.count as u64 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_keys_are_drawn_as_the_law_says() {
        let (zipf, mut rng) = (Zipf::new(1000, 0.99), Rng::new(1));
        let mut drawn = vec![0_u32; 1000];
        for _ in 0..100_000 {
            drawn[zipf.pick(&mut rng) as usize] += 1;
        }
        // 1 / zeta(1000, 0.99) is 0.129; the tenth key is drawn a tenth as often.
        assert!((12_000..14_000).contains(&drawn[0]), "{}", drawn[0]);
        assert!((900..1_700).contains(&drawn[9]), "{}", drawn[9]);
        assert!(drawn[999] < drawn[9]);
    }
}
