//! How long keys and values are: always the same, or drawn between two bounds.
//!
//! Written as `256`, `64-4096` (all sizes as likely) or `64-4096:0.9` (small ones preferred, as Zipf's law
//! with that exponent has it).

use std::fmt;
use std::str::FromStr;

use cairn_core::rng::Rng;

use crate::zipf::Zipf;

/// Most bytes: more than any server takes, and little enough to be allocated.
const MOST: usize = 64 << 20;

/// A size, or what it is drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    least: usize,
    most: usize,
    zipf: Option<(f64, Zipf)>,
}

impl Size {
    /// Always the same.
    pub const fn fixed(size: usize) -> Self {
        Self { least: size, most: size, zipf: None }
    }

    /// The smallest.
    pub fn least(&self) -> usize {
        self.least
    }

    /// The largest.
    pub fn most(&self) -> usize {
        self.most
    }

    /// One of them.
    pub fn pick(&self, rng: &mut Rng) -> usize {
        let sizes = (self.most - self.least) as u64 + 1;
        let above = match &self.zipf {
            _ if sizes == 1 => 0,
            None => rng.below(sizes),
            Some((_, zipf)) => zipf.pick(rng),
        };
        self.least + above as usize
    }
}

impl PartialEq for Size {
    fn eq(&self, other: &Self) -> bool {
        let parts = |size: &Self| (size.least, size.most, size.zipf.map(|(exponent, _)| exponent));
        parts(self) == parts(other)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bounds, exponent) = match text.split_once(':') {
            Some((bounds, exponent)) => (bounds, Some(exponent)),
            None => (text, None),
        };
        let (least, most) = bounds.split_once('-').unwrap_or((bounds, bounds));
        let bytes = |text: &str| {
            text.parse().map_err(|_| format!("{text:?} is no number of bytes")).and_then(
                |bytes| match bytes {
                    ..=MOST => Ok(bytes),
                    _ => Err(format!("{bytes} bytes are more than {MOST}")),
                },
            )
        };
        let (least, most) = (bytes(least)?, bytes(most)?);
        if least > most {
            return Err(format!("{least} is more than {most}"));
        }
        let zipf = match exponent {
            None => None,
            Some(text) => {
                let exponent: f64 = text.parse().map_err(|_| format!("{text:?} is no exponent"))?;
                if !(exponent > 0.0 && exponent < 1.0) {
                    return Err(format!("the exponent {exponent} must be between 0 and 1"));
                }
                Some((exponent, Zipf::new((most - least) as u64 + 1, exponent)))
            }
        };
        Ok(Self { least, most, zipf })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.least)?;
        if self.most != self.least {
            write!(f, "-{}", self.most)?;
        }
        if let Some((exponent, _)) = self.zipf {
            write!(f, ":{exponent}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(text: &str) -> Vec<usize> {
        let (size, mut rng) = (text.parse::<Size>().unwrap(), Rng::new(1));
        (0..10_000).map(|_| size.pick(&mut rng)).collect()
    }

    #[test]
    fn sizes_lie_within_their_bounds_and_reach_them() {
        assert!(draw("256").iter().all(|size| *size == 256));
        for text in ["8-11", "8-11:0.9"] {
            let drawn = draw(text);
            assert!((8..=11).all(|size| drawn.contains(&size)), "{text}");
            assert!(drawn.iter().all(|size| (8..=11).contains(size)), "{text}");
        }
    }

    #[test]
    fn zipf_prefers_small_ones() {
        let mean = |text: &str| draw(text).iter().sum::<usize>() / 10_000;
        assert!((480..520).contains(&mean("0-1000")), "{}", mean("0-1000"));
        assert!(mean("0-1000:0.99") < 200, "{}", mean("0-1000:0.99"));
    }

    #[test]
    fn what_is_written_is_read_again_and_nonsense_is_refused() {
        for text in ["16", "16-64", "16-64:0.5"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in ["", "x", "9-8", "1-2:1", "1-2:0", "1-2:x", "-1", "99999999999"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
