//! The document of the interface: OpenAPI 3.1, made from the table of routes.

use serde_json::{Map, Value, json};

use super::PREFIX;
use super::routes::{ROUTES, Route};

/// The document.
pub(super) fn openapi() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = format!("{PREFIX}{}", route.path);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(route.method.to_owned(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "huddle-firehose: the interface of operators",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
            "responses": { "Problem": {
                "description": "A problem, RFC 9457",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters(route),
        "responses": responses(route),
    });
    if let (Some(schema), Some(members)) = (route.body, operation.as_object_mut()) {
        let body = json!({
            "required": schema != "Reason",
            "content": { "application/json": { "schema": reference(schema) } },
        });
        members.insert("requestBody".to_owned(), body);
    }
    operation
}

fn responses(route: &Route) -> Value {
    let media_type = match route.answer {
        "Events" => "text/event-stream",
        _ => "application/json",
    };
    let schema = reference(route.answer);
    let answer = |description: &str| json!({ "description": description, "content": { media_type: { "schema": schema } } });
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    let mut responses = json!({ "200": answer("The answer"), "default": problem });
    if route.answer == "Command"
        && let Some(members) = responses.as_object_mut()
    {
        let accepted = answer("It is not ended yet; Location is where to ask again");
        members.insert("202".to_owned(), accepted);
    }
    responses
}

fn parameters(route: &Route) -> Vec<Value> {
    let segments = route.path.split('/');
    let names = segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let in_path = names.map(|name| {
        let schema = match name {
            "id" => json!({ "type": "integer", "format": "int64" }),
            "name" => reference("FilterName"),
            _ => json!({ "type": "string" }),
        };
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let in_query = route.query.iter().map(|name| {
        let schema = match *name {
            "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 500 }),
            "before" => json!({ "type": "integer", "format": "int64" }),
            "only_open" => json!({ "type": "boolean" }),
            _ => json!({ "type": "string" }),
        };
        json!({ "name": name, "in": "query", "schema": schema })
    });
    let header = |name: &str, is_required: bool| {
        let schema = json!({ "type": "string" });
        json!({ "name": name, "in": "header", "required": is_required, "schema": schema })
    };
    let mut in_header = Vec::new();
    if route.answer == "Command" {
        in_header.push(header("Prefer", false));
    }
    if route.is_command() {
        in_header.push(header("Idempotency-Key", false));
    }
    if route.is_command() && route.path.starts_with("/filters/") {
        in_header.push(header("If-Match", true));
    }
    if route.answer == "Events" {
        in_header.push(header("Last-Event-ID", false));
    }
    in_path.chain(in_query).chain(in_header).collect()
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// An object with these members, and no others.
fn object(members: Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": members,
        "required": required,
        "additionalProperties": false,
    })
}

/// `members` and one more.
fn with(mut members: Value, name: &str, member: Value) -> Value {
    members[name] = member;
    members
}

fn page(of: &str) -> Value {
    let next = json!({ "type": ["integer", "string", "null"] });
    let items = json!({ "type": "array", "items": reference(of) });
    object(json!({ "items": items, "next": next }), &["items", "next"])
}

fn list(of: &str) -> Value {
    json!({ "type": "array", "items": reference(of) })
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let flag = json!({ "type": "boolean" });
    let number = json!({ "type": "integer", "minimum": 0 });
    let optional = json!({ "type": ["string", "null"] });
    let any = json!({});
    let anything = json!({ "type": "object" });
    let texts = json!({ "type": "array", "items": text });
    let reason = json!({ "type": ["string", "null"], "maxLength": 500 });
    let name = json!({ "type": "string",
        "enum": ["collections", "dids_allow", "dids_deny", "validation"] });
    let state = json!({ "type": "string", "enum": ["queued", "running", "interrupted", "done",
        "failed", "cancelled", "denied"] });
    let value = json!({ "oneOf": [texts,
        { "type": "object", "additionalProperties": { "type": "boolean" } }] });
    let letter = json!({ "id": number, "source": text, "seq": { "type": ["integer", "null"] },
        "did": optional, "uri": optional, "stage": text, "error": text, "error_group": optional,
        "attempts": number, "bytes": number, "created_at": text, "retried_at": optional });
    json!({
        "AuditPage": page("AuditRow"),
        "AuditRow": object(json!({ "id": number, "at": text, "actor": text,
            "command": { "type": ["integer", "null"] }, "action": text, "target": text,
            "before": any, "after": any, "reason": optional, "outcome": text,
            "problem": optional }), &["id", "at", "actor", "action", "target", "outcome"]),
        "BulkLetters": object(json!({ "filter": reference("LetterFilter"), "all": flag,
            "dry_run": flag, "per_second": { "type": ["integer", "null"], "minimum": 1 },
            "reason": reason }), &[]),
        "Command": object(json!({ "id": number, "kind": text, "arguments": anything, "actor": text,
            "reason": optional, "created_at": text, "state": state, "started_at": optional,
            "ended_at": optional, "interruptions": number, "progress": any, "result": any,
            "error": optional }), &["id", "kind", "arguments", "actor", "created_at", "state"]),
        "CommandList": list("Command"),
        "CommandPage": page("Command"),
        "DeadLetter": object(letter.clone(), &["id", "source", "stage", "error", "created_at"]),
        "DeadLetterGroup": object(json!({ "group": optional, "stage": text, "letters": number,
            "bytes": number, "first_at": text, "last_at": text, "sample": number, "error": text,
            "uri": optional, "did": optional }),
            &["stage", "letters", "first_at", "last_at", "sample", "error"]),
        "DeadLetterGroupList": list("DeadLetterGroup"),
        "DeadLetterPage": page("DeadLetter"),
        "Document": anything,
        "Events": text,
        "Filter": object(json!({ "name": name, "value": texts, "configured": texts,
            "set_at": optional, "set_by": optional }), &["name", "value", "configured"]),
        "FilterList": list("Filter"),
        "FilterName": name,
        "Gap": object(json!({ "id": number, "source": text, "cause": text, "from_seq": number,
            "from_time": optional, "to_seq": { "type": ["integer", "null"] }, "to_time": optional,
            "opened_at": text, "closed_at": optional, "resolution": optional }),
            &["id", "source", "cause", "from_seq", "opened_at"]),
        "GapPage": page("Gap"),
        "GivenCommand": object(json!({ "command": { "type": "object",
            "properties": { "kind": text }, "required": ["kind"] }, "reason": reason }),
            &["command"]),
        "LetterFilter": object(json!({ "ids": { "type": "array", "items": number },
            "group": optional, "stage": optional, "reason": optional, "collection": optional,
            "did": optional, "source": optional, "since": optional, "until": optional }), &[]),
        "LogFilter": object(json!({ "filter": text, "for_seconds": number, "reason": reason }),
            &["filter", "for_seconds"]),
        "NewCursor": object(json!({ "seq": number, "accept_gap": flag, "new_source": flag,
            "reason": reason }), &["seq"]),
        "NewFilter": object(json!({ "value": value, "reason": reason }), &["value"]),
        "Override": object(json!({ "is_shown": flag, "reason": reason }), &["is_shown"]),
        "Problem": { "type": "object", "properties": { "type": text, "title": text,
            "status": number, "detail": text }, "required": ["type", "title", "status", "detail"] },
        "Reason": object(json!({ "reason": reason }), &[]),
        "Repo": anything,
        "RepoPage": page("RepoRow"),
        "RepoRow": object(json!({ "did": text, "handle": optional, "state": text, "cause": optional,
            "rev": optional, "has_parked": flag, "attempts": number, "retry_at": optional,
            "updated_at": text }), &["did", "state", "updated_at"]),
        "Rewind": object(json!({ "by_seconds": number, "reason": reason }), &["by_seconds"]),
        "Sink": { "type": "object", "properties": { "name": text, "url": text, "state": text,
            "position": { "type": ["integer", "null"] }, "behind": { "type": ["integer", "null"] } },
            "required": ["name", "url", "state"] },
        "SinkList": list("Sink"),
        "SinkRewind": object(json!({ "to": { "oneOf": [
            object(json!({ "change": number }), &["change"]),
            object(json!({ "since": { "type": "string", "format": "date-time" } }), &["since"])] },
            "reason": reason }), &["to"]),
        "Source": object(json!({ "source": text, "cursor": any, "is_followed": flag,
            "status": any }), &["source", "is_followed"]),
        "SourceList": list("Source"),
        "Stretch": object(json!({ "from": number, "to": { "type": ["integer", "null"], "minimum": 0 },
            "reason": reason }), &["from"]),
        "WholeDeadLetter": object(with(letter, "task", any),
            &["id", "source", "stage", "error", "created_at", "task"]),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Holds invariant 13.8: the router is made from the same table.
    #[test]
    fn the_document_in_the_folder_of_documents_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let made = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
        if std::env::var_os("HUDDLE_WRITE_OPENAPI").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == made,
            "docs/openapi.json is not what the code says; write it anew with \
             HUDDLE_WRITE_OPENAPI=1 cargo test --lib openapi"
        );
    }

    #[test]
    fn every_schema_that_is_named_is_defined_and_every_one_that_is_defined_is_named() {
        let document = openapi();
        let mut named = BTreeSet::new();
        collect(&document, &mut named);
        let defined = document["components"]["schemas"].as_object().unwrap();
        let defined: BTreeSet<String> = defined.keys().cloned().collect();
        assert_eq!(named, defined);
    }

    fn collect(value: &Value, named: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                let reference = members.get("$ref").and_then(Value::as_str);
                let schema = reference.and_then(|text| text.strip_prefix("#/components/schemas/"));
                named.extend(schema.map(str::to_owned));
                members.values().for_each(|value| collect(value, named));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, named)),
            _ => {}
        }
    }

    #[test]
    fn no_route_is_there_twice() {
        let routes = ROUTES.iter().map(|route| (route.path, route.method));
        assert_eq!(routes.collect::<BTreeSet<_>>().len(), ROUTES.len());
    }
}
