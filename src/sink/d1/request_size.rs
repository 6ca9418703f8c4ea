//! How much one request has. D1 gives a batch 30 seconds, and as much memory and processor time as it likes,
//! and says nothing of that. So what had no answer comes in halves.

use crate::sink::SinkError;

/// How many rows a request has at most: half as many behind one that had no answer, and twice as many
/// behind one that was carried out.
#[derive(Debug)]
pub(super) struct RequestSize {
    most: u64,
    now: u64,
    /// The last request had no answer that says why.
    is_in_doubt: bool,
}

impl RequestSize {
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            now: most,
            is_in_doubt: false,
        }
    }

    /// The rows of the next request.
    pub(super) fn rows(&self) -> u64 {
        match self.is_in_doubt {
            true => (self.now / 2).max(1),
            false => self.now,
        }
    }

    /// A request begins. It counts as one without an answer if its future is dropped.
    pub(super) fn begin(&mut self) {
        self.now = self.rows();
        self.is_in_doubt = true;
    }

    /// A request has ended.
    pub(super) fn end<T>(&mut self, outcome: &Result<T, SinkError>) {
        self.is_in_doubt = matches!(
            outcome,
            Err(SinkError::Unavailable {
                retry_after: None,
                ..
            })
        );
        if outcome.is_ok() {
            self.now = (self.now * 2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_no_answer_comes_in_halves_and_patience_halves_nothing() {
        let mut size = RequestSize::new(100);
        let mut sizes = Vec::new();
        for outcome in [
            Err(SinkError::unavailable("lost")),
            Err(SinkError::unavailable("lost")),
            Err(SinkError::Unavailable {
                reason: "busy".to_owned(),
                retry_after: Some(std::time::Duration::from_secs(1)),
            }),
            Ok(()),
            Ok(()),
            Ok(()),
        ] {
            size.begin();
            sizes.push(size.rows() * 2);
            size.end(&outcome);
        }
        assert_eq!(sizes, [100, 50, 24, 24, 50, 100]);
        for _ in 0..10 {
            // Its future is dropped.
            size.begin();
        }
        assert_eq!(size.rows(), 1);
    }
}
