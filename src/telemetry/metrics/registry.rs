//! The metrics recorder of one worker.

use std::fmt;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::names::{FAMILIES, Family, Kind};

/// Creates handles from names and labels.
pub(super) struct Registry(PrometheusRecorder);

const METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Registry {
    /// A recorder with the help texts and buckets of all families, and the handle that renders it.
    pub(super) fn new() -> (Self, PrometheusHandle) {
        let builder = FAMILIES
            .iter()
            .fold(PrometheusBuilder::new(), |builder, family| {
                match family.kind {
                    Kind::Counter | Kind::Gauge => builder,
                    Kind::Histogram(bounds) => builder
                        .set_buckets_for_metric(Matcher::Full(family.name.to_owned()), bounds)
                        // The call refuses only an empty list.
                        .unwrap_or_default(),
                }
            });
        let recorder = builder.build_recorder();
        for &Family { name, kind, help } in FAMILIES {
            match kind {
                Kind::Counter => recorder.describe_counter(name.into(), None, help.into()),
                Kind::Gauge => recorder.describe_gauge(name.into(), None, help.into()),
                Kind::Histogram(_) => recorder.describe_histogram(name.into(), None, help.into()),
            }
        }
        let handle = recorder.handle();
        (Self(recorder), handle)
    }

    pub(super) fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.0.register_counter(&key(name, labels), &METADATA)
    }

    pub(super) fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.0.register_gauge(&key(name, labels), &METADATA)
    }

    pub(super) fn histogram(&self, name: &'static str) -> Histogram {
        self.0.register_histogram(&key(name, &[]), &METADATA)
    }

    #[cfg(test)]
    pub(super) fn render(&self) -> String {
        self.0.handle().render()
    }
}

impl fmt::Debug for Registry {
    // The recorder's own debug output is its whole contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<_> = labels
        .iter()
        .map(|&(name, value)| Label::new(name, value.to_owned()))
        .collect();
    Key::from_parts(name, labels)
}
