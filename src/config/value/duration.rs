//! Durations, as whole numbers of the unit in their key.

/// A module that reads and writes a `Duration` as a whole number of one unit.
macro_rules! duration {
    ($name:ident, $from:expr, $to:expr) => {
        pub(in crate::config) mod $name {
            use std::time::Duration;

            use serde::{Deserialize, Deserializer, Serializer};

            pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Duration, D::Error> {
                u32::deserialize(deserializer).map(|count| $from(u64::from(count)))
            }

            pub(in crate::config) fn serialize<S: Serializer>(
                duration: &Duration,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64($to(duration))
            }
        }
    };
}

duration!(
    hours,
    |count| Duration::from_secs(count * 3600),
    |duration: &Duration| { duration.as_secs() / 3600 }
);
duration!(millis, Duration::from_millis, |duration: &Duration| {
    duration.as_secs() * 1000 + u64::from(duration.subsec_millis())
});

pub(in crate::config) mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        u32::deserialize(deserializer).map(|count| Some(Duration::from_secs(count.into())))
    }

    // serde calls this with `&Option`.
    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_u64(duration.as_secs()),
            None => serializer.serialize_none(),
        }
    }
}
