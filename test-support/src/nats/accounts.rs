//! The operator, accounts and user of a server whose clients log in with a file of credentials, as `nsc`
//! makes them.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// What the server and the user have to know.
pub struct Accounts {
    /// The server's configuration.
    pub configuration: String,
    /// The user's file of credentials.
    pub credentials: String,
    /// The secret in it.
    pub seed: String,
}

impl Accounts {
    /// New keys. What they sign means nothing to a server of other ones.
    pub fn generate() -> Self {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let (system, user) = (KeyPair::new_account(), KeyPair::new_user());
        let of_operator = token(&operator, &operator, json!({ "type": "operator" }));
        let of_account = json!({ "type": "account", "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
            "consumer": -1,
        } });
        // A system account may have no JetStream.
        let of_system = json!({ "type": "account", "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1,
        } });
        let configuration = format!(
            "operator: {of_operator}\nsystem_account: {}\nresolver: MEMORY\n\
             resolver_preload: {{ {}: {}, {}: {} }}\n",
            system.public_key(),
            account.public_key(),
            token(&operator, &account, of_account),
            system.public_key(),
            token(&operator, &system, of_system),
        );
        let of_user = json!({
            "type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        });
        let seed = user.seed().unwrap();
        let credentials = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            token(&account, &user, of_user),
        );
        Self {
            configuration,
            credentials,
            seed,
        }
    }
}

/// What `issuer` says of `subject`, signed.
fn token(issuer: &KeyPair, subject: &KeyPair, mut claims: Value) -> String {
    claims["version"] = json!(2);
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": claims,
    });
    let parts = [header, body].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
    let signed = parts.join(".");
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
