//! Go's notation for durations, in which the flags are given and the times of `health` are shown.
//!
//! Both directions follow Go's `time` package: `1m30s`, `500ms`, `1.5h`.

use std::time::Duration;

/// Parses `1m30s`, `500ms`, `1.5h`; a bare `0` is allowed.
pub(crate) fn parse(input: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", crate::output::quote(input.as_bytes()));
    if input == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = input.strip_prefix('+').unwrap_or(input);
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        seconds += number * unit;
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

/// Prints as Go does: the largest unit below the value, up to nine digits, no trailing zeros.
pub(crate) fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |scale: u128, unit: &str| {
        let digits = scale.ilog10() as usize;
        let whole = nanos / scale;
        let tail = format!("{:0digits$}", nanos % scale);
        let tail = tail.trim_end_matches('0');
        if tail.is_empty() { format!("{whole}{unit}") } else { format!("{whole}.{tail}{unit}") }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        _ => fraction(1_000_000_000, "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_go_parses() {
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse("zz"), Err("time: invalid duration \"zz\"".to_owned()));
        assert!(parse("5").is_err());
    }

    #[test]
    fn shows_what_go_shows() {
        assert_eq!(show(Duration::from_nanos(1_362_283)), "1.362283ms");
        assert_eq!(show(Duration::from_nanos(4_640_280)), "4.64028ms");
        assert_eq!(show(Duration::from_nanos(5_001_089_189)), "5.001089189s");
        assert_eq!(show(Duration::from_secs(5)), "5s");
        assert_eq!(show(Duration::from_nanos(350_500)), "350.5\u{b5}s");
    }
}
