//! Decides how much a sink is given at once, or the target of a consumer. What is refused is halved until one change
//! is alone, and what was not answered in time is halved until it is.

/// How much of a page the next delivery has, and what the sink refused of it.
#[derive(Clone, Debug)]
pub(crate) struct Bisection {
    /// How many changes are delivered at once.
    most: usize,
    /// How often the first change was refused alone.
    refusals: u32,
    /// How often it is tried again before it is set aside.
    retries: u32,
    /// The first change is a dead letter, and the position has to move over it.
    is_set_aside: bool,
}

/// What follows a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Half of the changes are delivered.
    Halve,
    /// The change is tried again.
    Retry,
    /// The change becomes a dead letter, after so many attempts.
    SetAside { attempts: u32 },
}

impl Bisection {
    pub(crate) fn new(retries: u32) -> Self {
        Self {
            most: usize::MAX,
            refusals: 0,
            retries,
            is_set_aside: false,
        }
    }

    /// How many changes the next delivery has at most.
    pub(crate) fn most(&self) -> usize {
        if self.is_set_aside { 1 } else { self.most }
    }

    /// Whether the next delivery moves the position over one change, and has none.
    pub(crate) fn is_set_aside(&self) -> bool {
        self.is_set_aside
    }

    /// The sink has taken a delivery. If that was quick, the next one may have twice as much.
    pub(crate) fn note_delivered(&mut self, is_quick: bool) {
        self.refusals = 0;
        self.is_set_aside = false;
        if is_quick {
            self.most = self.most.saturating_mul(2);
        }
    }

    /// A delivery of `count` changes was not answered. They may be too much for the deadline.
    pub(crate) fn note_unanswered(&mut self, count: usize) {
        self.most = self.most.min(count / 2).max(1);
    }

    /// The sink has refused a delivery of `count` changes.
    pub(crate) fn note_refused(&mut self, count: usize) -> Verdict {
        if count > 1 {
            self.most = count / 2;
            return Verdict::Halve;
        }
        self.most = 1;
        self.refusals += 1;
        match self.refusals <= self.retries {
            true => Verdict::Retry,
            false => Verdict::SetAside {
                attempts: self.refusals,
            },
        }
    }

    /// The first change was kept as a dead letter.
    pub(crate) fn note_set_aside(&mut self) {
        self.is_set_aside = true;
    }

    /// What comes next has nothing to do with what was refused. It is given as much at once.
    pub(crate) fn restart(&mut self) {
        *self = Self {
            most: self.most,
            ..Self::new(self.retries)
        };
    }

    /// The page was dropped. What begins the next one may be what was refused, so it stays alone, but it
    /// may be another change by now, so it is no dead letter yet.
    pub(crate) fn note_dropped(&mut self) {
        self.is_set_aside = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_change_is_alone_after_halves_and_set_aside_after_its_retries() {
        let mut bisection = Bisection::new(3);
        let mut count = 1_000;
        while count > 1 {
            assert_eq!(bisection.note_refused(count), Verdict::Halve);
            count = bisection.most().min(count);
        }
        for _ in 0..3 {
            assert_eq!(bisection.note_refused(1), Verdict::Retry);
        }
        let aside = Verdict::SetAside { attempts: 4 };
        assert_eq!(bisection.note_refused(1), aside);
        bisection.note_set_aside();
        assert!(bisection.is_set_aside());
    }

    #[test]
    fn behind_a_change_that_was_set_aside_deliveries_grow_again() {
        let mut bisection = Bisection::new(0);
        let _ = bisection.note_refused(1);
        bisection.note_set_aside();
        let mut sizes = Vec::new();
        for _ in 0..4 {
            bisection.note_delivered(true);
            sizes.push(bisection.most());
        }
        assert_eq!(sizes, [2, 4, 8, 16]);
        assert!(!bisection.is_set_aside());
    }

    #[test]
    fn what_was_not_answered_is_given_in_smaller_deliveries_until_they_are_quick_again() {
        let mut bisection = Bisection::new(3);
        for (count, most) in [(1_000, 500), (500, 250), (3, 1), (1, 1), (0, 1)] {
            bisection.note_unanswered(count);
            assert_eq!(bisection.most(), most);
        }
        bisection.note_delivered(true);
        bisection.note_delivered(true);
        bisection.note_delivered(false);
        assert_eq!(bisection.most(), 4);
        // A rewind makes no sink faster.
        bisection.restart();
        assert_eq!(bisection.most(), 4);
    }

    #[test]
    fn a_change_whose_page_was_dropped_is_delivered_again_and_stays_alone() {
        let mut bisection = Bisection::new(0);
        let _ = bisection.note_refused(1);
        bisection.note_set_aside();
        bisection.note_dropped();
        assert!(!bisection.is_set_aside());
        assert_eq!(bisection.most(), 1);
    }
}
