//! What a service is told from outside: read, checked, printed.

use std::time::Duration;

use chassis::{
    ConfigError, LogFormat, Settings,
    config::{duration, require_tls_url},
};
use clap::Parser;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    settings: Settings,
}

fn parse(arguments: &[&str]) -> Result<Settings, clap::Error> {
    Command::try_parse_from([&["test"], arguments].concat()).map(|command| command.settings)
}

/// The names of what is wrong.
fn problems(arguments: &[&str]) -> Vec<String> {
    let settings = parse(arguments).unwrap();
    settings
        .problems()
        .into_iter()
        .map(|problem| problem.name)
        .collect()
}

#[test]
fn defaults_are_those_that_help_shows() {
    let parsed = parse(&[]).unwrap();
    assert_eq!(format!("{parsed:?}"), format!("{:?}", Settings::default()));
    assert_eq!(parsed.log_format, LogFormat::Json);
    assert!(!parsed.dev && !parsed.check_config);
}

#[test]
fn every_flag_has_a_variable_except_the_one_that_only_asks() {
    let command = <Settings as clap::Args>::augment_args(clap::Command::new("test"));
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let variable = argument.get_env().and_then(|name| name.to_str());
        match id {
            "check_config" => assert_eq!(variable, None),
            "peers" => assert_eq!(variable, Some("TRAILMESH_PEERS")),
            _ => assert_eq!(
                variable,
                Some(format!("TRAILMESH_{}", id.to_uppercase()).as_str())
            ),
        }
        assert!(argument.get_help().is_some(), "{id} is not documented");
    }
}

#[test]
fn every_problem_is_named_at_once() {
    assert_eq!(
        problems(&[
            "--listen=127.0.0.1:1",
            "--admin-listen=127.0.0.1:1",
            "--trust-domain=Trail mesh",
            "--cell=",
            "--peer=auth=http://auth:8443,auth=https://auth:8443",
            "--otlp-endpoint=http://collector:4317",
            "--otlp-ca-file=/nonexistent",
            "--trace-share=2",
            "--log=chassis=loud",
            "--drain-timeout=0s",
            "--propagation-delay=5m",
            "--max-in-flight=0",
        ]),
        [
            "TRAILMESH_ADMIN_LISTEN",
            "TRAILMESH_IDENTITY_CERT_FILE",
            "TRAILMESH_IDENTITY_KEY_FILE",
            "TRAILMESH_TRUST_BUNDLE_FILE",
            "TRAILMESH_TRUST_DOMAIN",
            "TRAILMESH_CELL",
            "TRAILMESH_PEERS (auth)",
            "TRAILMESH_PEERS (auth)",
            "TRAILMESH_OTLP_ENDPOINT",
            "TRAILMESH_OTLP_CA_FILE",
            "TRAILMESH_TRACE_SHARE",
            "TRAILMESH_LOG",
            "TRAILMESH_DRAIN_TIMEOUT",
            "TRAILMESH_PROPAGATION_DELAY",
            "TRAILMESH_MAX_IN_FLIGHT",
        ]
    );
}

#[test]
fn plain_connections_are_for_dev_only() {
    let plain = [
        "--peer=auth=http://auth:8443",
        "--otlp-endpoint=http://collector:4317",
    ];
    let without_identity = [
        "TRAILMESH_IDENTITY_CERT_FILE",
        "TRAILMESH_IDENTITY_KEY_FILE",
        "TRAILMESH_TRUST_BUNDLE_FILE",
    ];
    assert_eq!(problems(&[&plain[..], &["--dev"]].concat()), [""; 0]);
    assert_eq!(
        problems(&plain),
        [
            &without_identity[..],
            &["TRAILMESH_PEERS (auth)", "TRAILMESH_OTLP_ENDPOINT"]
        ]
        .concat()
    );
}

#[test]
fn an_identity_is_whole_or_absent() {
    let here = file!().rsplit('/').next().unwrap();
    let this = format!("{}/tests/it/{here}", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(
        problems(&["--dev", "--identity-cert-file", &this]),
        ["TRAILMESH_IDENTITY_KEY_FILE", "TRAILMESH_TRUST_BUNDLE_FILE"]
    );
    assert_eq!(
        problems(&[
            "--identity-cert-file",
            &this,
            "--identity-key-file",
            &this,
            "--trust-bundle-file",
            "/nonexistent"
        ]),
        ["TRAILMESH_TRUST_BUNDLE_FILE"]
    );
}

#[test]
fn addresses_carry_nothing_but_a_host_and_a_port() {
    for url in [
        "https://user:canary@collector:4317",
        "https://collector:4317/v1",
        "https://collector:4317/?key=canary",
        "https://collector:4317/#canary",
        "ftp://collector:4317",
    ] {
        let settings = parse(&["--dev", "--otlp-endpoint", url]).unwrap();
        let [problem] = &settings.problems()[..] else {
            panic!("{url} has another number of problems");
        };
        assert_eq!(problem.name, "TRAILMESH_OTLP_ENDPOINT");
        assert!(!problem.to_string().contains("canary"), "{problem}");
    }
    for peer in [
        "auth",
        "=https://auth",
        "Auth=https://auth",
        "auth=auth:8443",
        "auth=https://",
    ] {
        assert!(parse(&["--peer", peer]).is_err(), "{peer}");
    }
}

#[test]
fn durations_have_a_unit() {
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
    assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
    assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
    for bad in [
        "",
        "5",
        "s",
        "-5s",
        "5 s",
        "1.5s",
        "5w",
        "99999999999999999999s",
        "9999999999999999h",
        "٥s",
    ] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_service_told_to_stop_in_dev_stops_at_once() {
    let settings = parse(&["--propagation-delay=5s"]).unwrap();
    assert_eq!(settings.propagation(), Duration::from_secs(5));
    let settings = parse(&["--propagation-delay=5s", "--dev"]).unwrap();
    assert_eq!(settings.propagation(), Duration::ZERO);
}

#[test]
fn a_url_must_say_tls_outside_dev() {
    let check = |url, dev| require_tls_url("TRAILMESH_REDIS_URL", url, dev);
    for url in ["https://h", "rediss://:canary@h:6380", "smtps://h:465"] {
        assert_eq!(check(url, false), Ok(()), "{url}");
        assert_eq!(check(url, true), Ok(()), "{url}");
    }
    for url in ["http://h", "redis://:canary@h:6379", "smtp://u:canary@h:25"] {
        assert_eq!(check(url, true), Ok(()), "{url}");
        let ConfigError {
            name,
            problem,
            remedy,
        } = check(url, false).unwrap_err();
        assert_eq!(name, "TRAILMESH_REDIS_URL");
        assert!(problem.contains("not encrypted") && remedy.contains("--dev"));
        assert!(!format!("{problem}{remedy}").contains("canary"));
    }
    for url in [
        "",
        "canary",
        "redis-canary",
        "canary://h",
        "https://",
        "rediss://",
    ] {
        for dev in [false, true] {
            let problem = check(url, dev).unwrap_err().to_string();
            assert!(!problem.contains("canary"), "{problem}");
        }
    }
}
