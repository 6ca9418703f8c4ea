//! The metric handles of one collection, created when it first occurs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::Counter;

use super::names;
use super::registry::Registry;
use crate::model::Validity;

/// Collections beyond this number share one set of series. With a pattern such as `*`, outsiders
/// choose the names, and each series stays in memory.
const LIMIT: usize = 200;

/// The label of the collections beyond [`LIMIT`]. It is not a valid NSID.
const OTHER: &str = "other";

/// Counters for the records of one collection.
#[derive(Debug)]
pub struct CollectionMetrics {
    pub created: Counter,
    pub updated: Counter,
    pub deleted: Counter,

    /// Kept although invalid.
    pub invalid: Counter,
    /// Invalid; became dead letters.
    pub rejected: Counter,
    pub unvalidated: Counter,
    pub valid: Counter,
}

impl CollectionMetrics {
    /// The counter of kept records with this validity.
    pub fn validated(&self, validity: &Validity) -> &Counter {
        match validity {
            Validity::Invalid { .. } => &self.invalid,
            Validity::Unvalidated => &self.unvalidated,
            Validity::Valid => &self.valid,
        }
    }

    fn new(registry: &Registry, collection: &str) -> Self {
        let collection = ("collection", collection);
        let operation = |word| {
            registry.counter(
                names::RECORD_OPERATIONS_TOTAL,
                &[collection, ("operation", word)],
            )
        };
        let validity = |word| {
            registry.counter(
                names::RECORDS_VALIDATED_TOTAL,
                &[collection, ("validity", word)],
            )
        };
        Self {
            created: operation("create"),
            updated: operation("update"),
            deleted: operation("delete"),
            invalid: validity("invalid"),
            rejected: validity("rejected"),
            unvalidated: validity("unvalidated"),
            valid: validity("valid"),
        }
    }
}

/// The collections that occurred so far: at most [`LIMIT`], and `other`.
#[derive(Debug)]
pub(super) struct Collections {
    by_name: Mutex<HashMap<Box<str>, Arc<CollectionMetrics>>>,
    registry: Arc<Registry>,
}

impl Collections {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self {
            by_name: Mutex::default(),
            registry,
        }
    }

    pub(super) fn resolve(&self, collection: &str) -> Arc<CollectionMetrics> {
        // The map is valid after every statement, so a panic elsewhere leaves it valid.
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_name.get(collection) {
            return known.clone();
        }
        let name = if by_name.len() < LIMIT {
            collection
        } else {
            OTHER
        };
        by_name
            .entry(name.into())
            .or_insert_with(|| Arc::new(CollectionMetrics::new(&self.registry, name)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_resolved_once() {
        let (registry, _) = Registry::new();
        let collections = Collections::new(Arc::new(registry));
        let first = collections.resolve("com.huddle.booking");
        assert!(Arc::ptr_eq(
            &first,
            &collections.resolve("com.huddle.booking")
        ));
    }

    #[test]
    fn collections_beyond_the_limit_share_their_series() {
        let (registry, text) = Registry::new();
        let collections = Collections::new(Arc::new(registry));
        for number in 0..LIMIT + 50 {
            let name = format!("com.example.c{number}");
            collections.resolve(&name).created.increment(1);
        }
        let text = text.render();
        let other = r#"huddle_record_operations_total{collection="other",operation="create"} 50"#;
        assert!(text.contains(other), "{text}");
        let series = text
            .lines()
            .filter(|line| line.contains("operation=\"create\""));
        assert_eq!(series.count(), LIMIT + 1);
    }

    #[test]
    fn a_record_is_counted_by_its_validity() {
        let (registry, text) = Registry::new();
        let collections = Collections::new(Arc::new(registry));
        let reason = "no title".to_owned();
        collections
            .resolve("com.huddle.booking")
            .validated(&Validity::Invalid { reason })
            .increment(1);
        let line = r#"{collection="com.huddle.booking",validity="invalid"} 1"#;
        assert!(text.render().contains(line));
    }
}
