//! Where a Postgres database is, and how to connect to it.

use std::fmt;
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use url::Url;

use crate::sink::SinkError;
use crate::sink::options::redacted;
use crate::sink::secret::Secret;

/// What the program calls itself in the list of connections.
const APPLICATION: &str = "huddle-firehose";

/// The names of the parameter that has root certificates.
const ROOTS: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];

/// What the library says of a server without TLS.
const NO_TLS: &str = "does not support TLS";

/// What it says of a certificate that it does not take.
const WRONG_CERTIFICATE: &str = "invalid peer certificate";

/// The options of a Postgres sink, as its URL has them.
#[derive(Clone, PartialEq)]
pub struct PostgresOptions {
    /// Without the parameters that are read here.
    url: Url,
    /// The schema that the tables are in.
    pub(super) schema: String,
    /// If it is not in the URL.
    password: Option<Secret>,
    /// What an operator is shown.
    shown: String,
}

/// Whether a parameter is one of sqlx. It logs the others, with their values.
fn is_known(name: &str) -> bool {
    const NAMES: [&str; 18] = [
        "application_name",
        "dbname",
        "host",
        "hostaddr",
        "options",
        "password",
        "port",
        "ssl-ca",
        "ssl-cert",
        "ssl-key",
        "ssl-mode",
        "ssl-root-cert",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "statement-cache-capacity",
        "user",
    ];
    NAMES.contains(&name)
}

impl PostgresOptions {
    /// Reads `url`. Beside the parameters of libpq it knows `schema`, `password_file` and `password_env`.
    ///
    /// # Errors
    /// The reason, without a password in it.
    pub(crate) fn parse(url: &Url) -> Result<Self, String> {
        let mut schema = "public".to_owned();
        let mut password = None;
        let mut rest = Vec::new();
        for (name, value) in url.query_pairs() {
            if let Some(named) = Secret::of("password", &name, &value) {
                password = Some(named);
            } else if name == "schema" {
                schema = value.into_owned();
            } else if is_known(&name) {
                rest.push((name.into_owned(), value.into_owned()));
            } else {
                return Err(format!("{name:?} is no parameter of a Postgres sink"));
            }
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if schema.is_empty() || schema.len() > 63 || !schema.bytes().all(is_allowed) {
            return Err(format!(
                "schema: {schema:?} is not a name of letters, digits and _, at most 63 of them"
            ));
        }
        let shown = redacted(url, |name| name == "password");
        let mut url = url.clone();
        match rest.is_empty() {
            true => url.set_query(None),
            false => {
                url.query_pairs_mut().clear().extend_pairs(rest);
            }
        }
        let options = Self {
            url,
            schema,
            password,
            shown,
        };
        let connect = options.connect_options();
        let mode = connect.map_err(|error| error.to_string())?.get_ssl_mode();
        if options.names_roots() && !matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
            return Err("sslrootcert needs sslmode=verify-full, verify-ca or require".to_owned());
        }
        Ok(options)
    }

    fn names_roots(&self) -> bool {
        let mut pairs = self.url.query_pairs();
        pairs.any(|(name, _)| ROOTS.contains(&&*name))
    }

    fn connect_options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        // pgbouncer knows no extra_float_digits, and a statement with a name may belong to another
        // connection there.
        let options = PgConnectOptions::from_str(self.url.as_str())?
            .extra_float_digits(None)
            .statement_cache_capacity(0)
            .disable_statement_logging();
        // As libpq has it, and not sqlx: a root certificate is there to be checked.
        let options = match options.get_ssl_mode() {
            PgSslMode::Require if self.names_roots() => options.ssl_mode(PgSslMode::VerifyCa),
            _ => options,
        };
        Ok(match options.get_application_name() {
            Some(_) => options,
            None => options.application_name(APPLICATION),
        })
    }

    /// Connects. Returns whether the connection is as safe as the operator wants. Without `sslmode` in the
    /// URL, the operator wants TLS.
    pub(super) async fn connect(&self) -> Result<(PgConnection, bool), SinkError> {
        let mut options = self.connect_options().map_err(SinkError::unavailable)?;
        if let Some(secret) = &self.password {
            options = options.password(&secret.read()?);
        }
        let is_local = options.get_socket().is_some();
        let mode = options.get_ssl_mode();
        if !matches!(mode, PgSslMode::Prefer) || is_local {
            let connection = options.connect().await.map_err(unavailable)?;
            // With `allow`, the driver asks for no TLS.
            let is_plain = matches!(mode, PgSslMode::Allow) && !is_local;
            return Ok((connection, !is_plain));
        }
        match options.clone().ssl_mode(PgSslMode::Require).connect().await {
            Ok(connection) => Ok((connection, true)),
            Err(sqlx::Error::Tls(error)) if error.to_string().contains(NO_TLS) => {
                let plain = options.ssl_mode(PgSslMode::Disable);
                let connection = plain.connect().await.map_err(unavailable)?;
                Ok((connection, false))
            }
            Err(error) => Err(unavailable(error)),
        }
    }
}

/// Why there is no connection, and what to do where that is known.
fn unavailable(error: sqlx::Error) -> SinkError {
    let text = error.to_string();
    let advice = if text.contains(NO_TLS) {
        "; set ssl=on at the server, or sslmode=disable in the URL if the network is trusted"
    } else if text.contains(WRONG_CERTIFICATE) {
        "; sslrootcert names the certificate of the authority that signed the server's, and with \
         sslmode=verify-full the server's is for the host in the URL"
    } else {
        ""
    };
    SinkError::unavailable(format_args!("cannot connect: {text}{advice}"))
}

impl fmt::Display for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<PostgresOptions, String> {
        PostgresOptions::parse(&Url::parse(url).unwrap())
    }

    #[test]
    fn the_url_names_the_schema_and_where_the_password_is() {
        let options = parse("postgres://ann@db/huddle?schema=a_1&password_file=/p&sslmode=require");
        let options = options.unwrap();
        assert_eq!(options.schema, "a_1");
        assert_eq!(options.password, Some(Secret::File("/p".into())));
        assert_eq!(
            options.url.as_str(),
            "postgres://ann@db/huddle?sslmode=require"
        );
        assert_eq!(parse("postgres://db").unwrap().schema, "public");
    }

    #[test]
    fn a_name_that_would_need_quotes_is_no_schema() {
        for schema in ["a-b", "", "a\"b", "a.b"] {
            assert!(parse(&format!("postgres://db/x?schema={schema}")).is_err());
        }
        assert!(parse("postgres://db/x?sslmode=perhaps").is_err());
    }

    #[test]
    fn a_root_certificate_that_would_not_be_checked_is_refused() {
        for mode in ["", "&sslmode=prefer", "&sslmode=allow", "&sslmode=disable"] {
            let error = parse(&format!("postgres://db/x?sslrootcert=/r{mode}")).unwrap_err();
            assert!(error.contains("sslmode=verify-full"), "{error}");
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            assert!(parse(&format!("postgres://db/x?ssl-ca=/r&sslmode={mode}")).is_ok());
        }
    }
}
