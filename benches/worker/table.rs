//! Prints the results as plain text.

use crate::round::Round;

pub(crate) fn print_head() {
    println!(
        "{:<36} {:>11} {:>11} {:>6} {:>13}",
        "row", "bare 1/s", "worker 1/s", "ratio", "(least, most)"
    );
}

pub(crate) fn print_row(name: &str, rounds: &[Round]) {
    let of = |figure: fn(&Round) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    };
    let bare = of(|round| round.events as f64 / round.bare.as_secs_f64());
    let worker = of(|round| round.events as f64 / round.worker.as_secs_f64());
    let ratios = of(|round| round.bare.as_secs_f64() / round.worker.as_secs_f64());
    let middle = rounds.len() / 2;
    println!(
        "{name:<36} {:>11.0} {:>11.0} {:>6.2} {:>13}",
        bare[middle],
        worker[middle],
        ratios[middle],
        format!("({:.2}, {:.2})", ratios[0], ratios[ratios.len() - 1]),
    );
}
