//! Latency against offered load as a picture: for each server the median and the p99, the latter dashed.

use std::fmt::Write;

use super::loads::Point;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLORS: [&str; 2] = ["#c0392b", "#1f6fb2"];

/// The picture. The load is linear; the latency is logarithmic, in milliseconds.
pub(super) fn svg(servers: &[(&'static str, Vec<Point>)]) -> String {
    let points = || servers.iter().flat_map(|(_, points)| points);
    let load_max = points().map(|point| point.offered).fold(1.0, f64::max);
    let least = points().map(|point| point.p50_us.max(1) as f64 / 1e3).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.p99_us.max(1) as f64 / 1e3).fold(least, f64::max);
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    let x = |load: f64| LEFT + load / load_max * (WIDTH - LEFT - RIGHT);
    let y = |ms: f64| {
        let share = (ms.log10() - low) / (high - low).max(1.0);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    // Writing into a string does not fail.
    for power in low as i32..=high as i32 {
        let ms = 10_f64.powi(power);
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n<text x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(ms) + 4.0,
            y = y(ms),
        );
    }
    for tenth in 0..=5 {
        let load = load_max * f64::from(tenth) / 5.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{load:.0}</text>",
            x(load),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">puts offered a second; a line ends where the \
         server cannot keep up</text>",
        WIDTH / 2.0,
        HEIGHT - 10.0
    );
    for (number, (server, points)) in servers.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let mut line = |name: &str, dashes: &str, place: f64, latency: fn(&Point) -> u64| {
            let path: Vec<String> = points
                .iter()
                .map(|point| {
                    let ms = latency(point).max(1) as f64 / 1e3;
                    format!("{:.1},{:.1}", x(point.offered), y(ms))
                })
                .collect();
            for pair in &path {
                let (x, y) = pair.split_once(',').expect("just written");
                let _ = writeln!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{color}\"/>");
            }
            let _ = write!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" \
                 stroke-dasharray=\"{dashes}\"/>\n<text x=\"{:.1}\" y=\"20\" fill=\"{color}\">{server} \
                 {name}</text>\n",
                path.join(" "),
                LEFT + place
            );
        };
        line("p50", "none", 190.0 * number as f64, |point| point.p50_us);
        line("p99 (dashed)", "6 4", 190.0 * number as f64 + 70.0, |point| point.p99_us);
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_lies_within_the_picture() {
        let point = |offered, p99_us| Point { offered, done: offered, p50_us: 300, p99_us, p999_us: p99_us };
        let picture = svg(&[("etcd", vec![point(500.0, 1_000), point(20_000.0, 900_000)])]);
        let lines: Vec<&str> = picture.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(lines.len(), 2);
        for line in lines {
            let points = line.split('"').nth(1).unwrap();
            for pair in points.split(' ') {
                let (x, y) = pair.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!(
                    (LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y),
                    "{pair}"
                );
            }
        }
    }
}
