//! Prints the results as plain text.

use crate::round::Round;

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn print_head() {
    println!(
        "{:<38} {:>10} {:>10} {:>6} {:>13} {:>9} {:>9} {:>9}",
        "row",
        "bare 1/s",
        "worker 1/s",
        "ratio",
        "(least, most)",
        "ms/event",
        "of system",
        "peak MiB"
    );
}

/// Prints the medians of the rounds. `ms/event` is the worker's processor time.
pub(crate) fn print_row(name: &str, rounds: &[Round]) {
    let of = |figure: fn(&Round) -> f64| sorted(rounds.iter().map(figure));
    let middle = rounds.len() / 2;
    let worker = of(|round| round.events as f64 / round.worker.elapsed.as_secs_f64());
    let processor = of(|round| ms_an_event(round, round.worker.processor().as_secs_f64()));
    let system = of(|round| ms_an_event(round, round.worker.system.as_secs_f64()));
    let peak = of(|round| round.worker.peak as f64 / MIB);
    println!(
        "{name:<38} {:>10} {:>10.0} {} {:>9.4} {:>9.4} {:>9.1}",
        bare(rounds).map_or("-".to_owned(), |rate| format!("{rate:.0}")),
        worker[middle],
        ratio(rounds).map_or_else(
            || " ".repeat(20),
            |[least, median, most]| {
                format!("{median:>6.2} {:>13}", format!("({least:.2}, {most:.2})"))
            }
        ),
        processor[middle],
        system[middle],
        peak[middle],
    );
}

/// The median rate of the bare limit.
fn bare(rounds: &[Round]) -> Option<f64> {
    let rates = rounds
        .iter()
        .filter_map(|round| Some(round.events as f64 / round.bare?.as_secs_f64()));
    let rates = sorted(rates);
    rates.get(rates.len() / 2).copied()
}

/// The least, the median and the greatest ratio of the rounds.
fn ratio(rounds: &[Round]) -> Option<[f64; 3]> {
    let of = |round: &Round| Some(round.bare?.as_secs_f64() / round.worker.elapsed.as_secs_f64());
    let ratios = sorted(rounds.iter().filter_map(of));
    Some([*ratios.first()?, ratios[ratios.len() / 2], *ratios.last()?])
}

fn ms_an_event(round: &Round, seconds: f64) -> f64 {
    seconds * 1e3 / round.events as f64
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}
