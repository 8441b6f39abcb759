//! Tables as etcdctl draws them: a frame of `+-|`, centred titles in capitals, cells to the right.
//!
//! Drawn by hand because a title that cannot be centred exactly leans to the left here, which the
//! table crates do the other way round.

/// Draws a table, with the newline at its end.
pub(crate) fn draw(titles: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(i, title)| {
            let cells = rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
            cells.max(title.chars().count())
        })
        .collect();
    let mut rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect();
    rule.push_str("+\n");
    let mut out = rule.clone();
    for (title, width) in titles.iter().zip(&widths) {
        let gap = width - title.chars().count();
        out.push_str(&format!("| {}{title}{} ", " ".repeat(gap / 2), " ".repeat(gap - gap / 2)));
    }
    out.push_str("|\n");
    out.push_str(&rule);
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            out.push_str(&format!("| {cell:>width$} "));
        }
        out.push_str("|\n");
    }
    out.push_str(&rule);
    out
}
