//! Reads the fields of a record in the form that a table row needs.

use cid::Cid;

use crate::atproto::datetime;
use crate::lexicon::DataValue;
use crate::lexicon::format::Format;
use crate::lexicon::sanitize::sanitize;

/// Why a record cannot become a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    #[error("{field}: is not a datetime between the years 1 and 9999")]
    Datetime { field: &'static str },

    #[error("endsAt: is not after startsAt")]
    EndsBeforeItStarts,

    #[error("{field}: is missing")]
    Missing { field: &'static str },

    #[error("is not an object")]
    NotAnObject,

    #[error("{field}: does not refer to a record by at-uri and CID")]
    Reference { field: &'static str },

    #[error("{field}: is not {expected}")]
    Type {
        field: &'static str,
        expected: &'static str,
    },
}

/// A reference to a record and to one version of it.
pub(super) struct StrongRef {
    /// `at://authority/collection/rkey`
    pub(super) uri: String,
    pub(super) cid: String,
}

/// The fields of a record, which is a map.
pub(super) struct Fields<V>(V);

impl<'a, V: DataValue<'a>> Fields<V> {
    pub(super) fn of(record: V) -> Result<Self, ProjectionError> {
        match record.is_map() {
            true => Ok(Self(record)),
            false => Err(ProjectionError::NotAnObject),
        }
    }

    /// Reads a text and sanitizes it.
    pub(super) fn text(&self, field: &'static str) -> Result<Option<String>, ProjectionError> {
        let text = self.read(field, "a string", V::as_str)?;
        Ok(text.map(|text| sanitize(text).into_owned()))
    }

    pub(super) fn integer(&self, field: &'static str) -> Result<Option<i64>, ProjectionError> {
        self.read(field, "an integer", V::as_i64)
    }

    /// Reads a list of texts one by one, and passes each to `take` when it is sanitized. Each is
    /// checked to be a text, also those that `take` has no use for.
    pub(super) fn texts(
        &self,
        field: &'static str,
        mut take: impl FnMut(&str),
    ) -> Result<(), ProjectionError> {
        let Some(list) = self.0.get(field) else {
            return Ok(());
        };
        let of_another_type = |expected| ProjectionError::Type { field, expected };
        let elements = list.elements().ok_or(of_another_type("an array"))?;
        for element in elements {
            let text = element.as_str();
            take(&sanitize(
                text.ok_or(of_another_type("an array of strings"))?,
            ));
        }
        Ok(())
    }

    /// Reads a datetime and returns it as UTC text that sorts.
    pub(super) fn datetime(&self, field: &'static str) -> Result<Option<String>, ProjectionError> {
        let Some(text) = self.read(field, "a string", V::as_str)? else {
            return Ok(None);
        };
        datetime::parse_utc(text)
            .and_then(datetime::to_sortable_text)
            .map(Some)
            .ok_or(ProjectionError::Datetime { field })
    }

    /// Reads `startsAt` and `endsAt` as UTC text that sorts. `endsAt` must be later. They are
    /// compared in their stored form, to the millisecond.
    pub(super) fn window(&self) -> Result<(String, String), ProjectionError> {
        let starts_at = required("startsAt", self.datetime("startsAt")?)?;
        let ends_at = required("endsAt", self.datetime("endsAt")?)?;
        if ends_at > starts_at {
            Ok((starts_at, ends_at))
        } else {
            Err(ProjectionError::EndsBeforeItStarts)
        }
    }

    /// Reads a `com.atproto.repo.strongRef`. Stricter than its lexicon: the uri must name a record,
    /// and the CID must be decodable. The collection and existence of the record are not checked.
    pub(super) fn strong_ref(
        &self,
        field: &'static str,
    ) -> Result<Option<StrongRef>, ProjectionError> {
        let map = |value: V| value.is_map().then_some(value);
        let Some(reference) = self.read(field, "an object", map)? else {
            return Ok(None);
        };
        let part = |name| reference.get(name).and_then(V::as_str);
        match (part("uri"), part("cid")) {
            (Some(uri), Some(cid)) if names_a_record(uri) && Cid::try_from(cid).is_ok() => {
                Ok(Some(StrongRef {
                    uri: uri.to_owned(),
                    cid: cid.to_owned(),
                }))
            }
            _ => Err(ProjectionError::Reference { field }),
        }
    }

    /// `None` if the field is absent.
    fn read<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(V) -> Option<T>,
    ) -> Result<Option<T>, ProjectionError> {
        self.0
            .get(field)
            .map(|value| read(value).ok_or(ProjectionError::Type { field, expected }))
            .transpose()
    }
}

pub(super) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ProjectionError> {
    value.ok_or(ProjectionError::Missing { field })
}

fn names_a_record(uri: &str) -> bool {
    // The parts are "at:", "", authority, collection and record key.
    Format::AtUri.accepts(uri) && uri.split('/').count() == 5
}
