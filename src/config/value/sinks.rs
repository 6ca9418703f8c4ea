//! The sinks: `[NAME=]URL`, or a table with `url` and, if it is not that of its kind, `name`.

use serde::de::{Deserializer, Error};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use crate::sink::{InvalidSink, SinkOptions};

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Table(Table),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: Option<String>,
    url: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Written>),
    One(Written),
}

pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<SinkOptions>, D::Error> {
    let written = OneOrMany::deserialize(deserializer)
        .map_err(|_| D::Error::custom("is not [NAME=]URL, or a table with `url` and `name`"))?;
    let written = match written {
        OneOrMany::Many(written) => written,
        OneOrMany::One(written) => vec![written],
    };
    let sinks = written.into_iter().map(read);
    sinks.collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn read(written: Written) -> Result<SinkOptions, InvalidSink> {
    match written {
        Written::Text(text) => SinkOptions::parse(&text),
        Written::Table(Table { name, url }) => SinkOptions::new(name.as_deref(), &url),
    }
}

/// Without what is secret.
pub(in crate::config) fn serialize<S: Serializer>(
    sinks: &[SinkOptions],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut written = serializer.serialize_seq(Some(sinks.len()))?;
    for sink in sinks {
        written.serialize_element(&Table {
            name: Some(sink.name.to_string()),
            url: sink.to_string(),
        })?;
    }
    written.end()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Layers, Settings};

    #[test]
    fn the_sinks_of_all_layers_are_one_list() {
        let mut layers = Layers::new();
        layers.file(
            Path::new("huddle.toml"),
            "[[sink]]\nurl = 'postgres://a/x'\n[[sink]]\nname = 'two'\nurl = 'postgres://b/x'",
        );
        layers.environment([("HUDDLE_SINK".into(), "three=postgres://c/x".into())]);
        layers.flags(&Settings {
            sink: Some(vec!["four=postgres://d/x".to_owned()]),
            ..Settings::default()
        });
        let sinks = layers.resolve().unwrap().config.sink;
        let names: Vec<&str> = sinks.iter().map(|sink| &*sink.name).collect();
        assert_eq!(names, ["postgres", "two", "three", "four"]);
    }

    /// Holds invariant 12.10.
    #[test]
    fn a_password_is_not_printed() {
        let mut layers = Layers::new();
        layers.flags(&Settings {
            sink: Some(vec!["postgres://ann:secret@db/x".to_owned()]),
            ..Settings::default()
        });
        let loaded = layers.resolve().unwrap();
        let printed = loaded.to_toml().unwrap();
        assert!(printed.contains("postgres://ann:***@db/x"), "{printed}");
        assert!(!format!("{:?}", loaded.config).contains("secret"));
        assert!(!printed.contains("secret"));
    }

    #[test]
    fn what_names_no_sink_is_a_problem_that_tells_no_password() {
        for wrong in [
            "'redis://ann:secret@db'",
            "[{ uri = 'x' }]",
            "7",
            "['no url']",
        ] {
            let mut layers = Layers::new();
            layers.file(Path::new("huddle.toml"), &format!("sink = {wrong}"));
            let error = layers.resolve().unwrap_err().to_string();
            assert!(error.contains("sink (file huddle.toml)"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
