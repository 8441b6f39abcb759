//! A line diff for failure messages.
//!
//! Owns nothing but the longest-common-subsequence table; meant for transcripts of a few hundred lines.

use std::fmt::Write as _;

/// Lines beyond this many are cut from either side, because the table is quadratic.
const LINES_MAX: usize = 1_000;

/// Renders `left` and `right` as a diff: ` ` both, `-` only left, `+` only right.
pub fn lines(left: &str, right: &str) -> String {
    let left: Vec<&str> = left.lines().take(LINES_MAX).collect();
    let right: Vec<&str> = right.lines().take(LINES_MAX).collect();
    // common[i][j]: length of the longest common subsequence of left[i..] and right[j..].
    let mut common = vec![vec![0u32; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            common[i][j] = if left[i] == right[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let mut out = String::new();
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        let (sign, line) = if i < left.len() && j < right.len() && left[i] == right[j] {
            i += 1;
            j += 1;
            (' ', left[i - 1])
        } else if j == right.len() || (i < left.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', left[i - 1])
        } else {
            j += 1;
            ('+', right[j - 1])
        };
        writeln!(out, "{sign} {}", shorten(line)).expect("writing to a String cannot fail");
    }
    out
}

/// A line that fits a terminal: the middle of a very long one is cut.
fn shorten(line: &str) -> String {
    const SIDE: usize = 400;
    let chars: Vec<char> = line.chars().collect();
    if chars.len() <= 2 * SIDE {
        return line.to_owned();
    }
    let head: String = chars[..SIDE].iter().collect();
    let tail: String = chars[chars.len() - SIDE..].iter().collect();
    format!("{head} ... {} characters ... {tail}", chars.len() - 2 * SIDE)
}

#[cfg(test)]
mod tests {
    #[test]
    fn shows_a_changed_line_between_equal_ones() {
        assert_eq!(super::lines("a\nb\nc", "a\nx\nc"), "  a\n- b\n+ x\n  c\n");
        assert_eq!(super::lines("", "x"), "+ x\n");
        assert_eq!(super::lines("x", ""), "- x\n");
    }
}
