//! `config check` and `config print`.

use std::path::Path;
use std::process::Output;

use super::{huddle, stderr, stdout};

#[test]
fn a_configuration_without_faults_is_ok() {
    let output = huddle(&["config", "check"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "ok\n");
    assert_eq!(stderr(&output), "");
}

#[test]
fn every_fault_is_listed_and_the_exit_code_is_two() {
    let output = huddle(
        &["config", "check", "--batch-bytes", "40MiB"],
        &[("HUDDLE_LISTEN", "here"), ("HUDDLE_LISTENS", "there")],
    );
    assert_eq!(output.status.code(), Some(2));
    let errors = stderr(&output);
    for part in [
        "listen (environment HUDDLE_LISTEN): ",
        "environment HUDDLE_LISTENS: no such setting; did you mean HUDDLE_LISTEN?",
        "batch_bytes (flag --batch-bytes), memory_budget (default): ",
    ] {
        assert!(errors.contains(part), "{errors}");
    }
}

#[test]
fn a_variable_that_resembles_no_setting_causes_a_warning() {
    let variables = [("HUDDLE_FIREHOSE_PORT", "tcp://10.0.0.1:8080")];
    let output = huddle(&["config", "check"], &variables);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let warning = "warning: environment HUDDLE_FIREHOSE_PORT: no such setting; ignored\n";
    assert_eq!(stderr(&output), warning);
}

#[test]
fn a_flag_that_does_not_exist_exits_with_two() {
    let output = huddle(&["config", "check", "--batch-byte", "1"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--batch-byte"));
}

#[test]
fn the_output_of_config_print_is_a_file_that_config_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("huddle.toml");
    let printed = huddle(
        &["config", "print", "--validation", "com.huddle.*=flag,off"],
        &[("HUDDLE_SOURCE_URL", "https://pds.example")],
    );
    assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
    std::fs::write(&file, &printed.stdout).unwrap();

    let path = |file: &Path| file.to_str().unwrap().to_owned();
    let again = huddle(&["config", "print", "--config", &path(&file)], &[]);
    let values = |output: &Output| -> Vec<String> {
        let lines = stdout(output).lines();
        lines
            .map(|line| line.split(" # ").next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(values(&again), values(&printed));
    assert!(stdout(&again).contains("wss://pds.example/xrpc/"));
    let checked = huddle(&["config", "check"], &[("HUDDLE_CONFIG", &path(&file))]);
    assert_eq!(stdout(&checked), "ok\n");
}

#[test]
fn a_listener_on_a_public_address_causes_a_warning() {
    let output = huddle(&["config", "check", "--listen", "0.0.0.0:8080"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).starts_with("warning: listen: "));
}

#[test]
fn every_setting_of_the_compose_file_is_one_and_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(str::trim);
    let settings = lines.filter(|line| line.starts_with("HUDDLE_"));
    let settings: Vec<(&str, &str)> = settings.filter_map(|line| line.split_once(": ")).collect();
    assert!(settings.len() > 5, "{settings:?}");
    // Several workers have the same setting, so each is looked at alone.
    for (name, value) in settings {
        let default = value.rsplit_once(":-").map(|(_, default)| default);
        let value = default.map_or(value, |default| default.trim_end_matches('}'));
        let output = huddle(&["config", "check"], &[(name, value)]);
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{name}: {errors}");
        assert!(!errors.contains("no such setting"), "{errors}");
    }
}

/// A copy of the repository's folder is what an image is made from.
#[test]
fn the_secrets_of_the_compose_file_come_neither_into_an_image_nor_into_a_commit() {
    let read = |name: &str| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        std::fs::read_to_string(format!("{path}{name}")).unwrap()
    };
    let compose = read("deploy/compose.yaml");
    let secrets: Vec<&str> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("file: "))
        .collect();
    assert!(!secrets.is_empty());
    for secret in secrets {
        assert!(secret.starts_with("secrets/"), "{secret}");
    }
    for (file, expected) in [
        (".dockerignore", "deploy/secrets"),
        (".dockerignore", "**/*.db*"),
        (".gitignore", "/deploy/secrets/"),
    ] {
        let text = read(file);
        assert!(
            text.lines().any(|line| line == expected),
            "{file}: {expected}"
        );
    }
}
