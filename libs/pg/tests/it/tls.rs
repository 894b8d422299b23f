//! Who the server is, is verified.

use std::path::PathBuf;

use pg::{Pool, Settings, migrate};
use testkit::{Authority, Postgres};
use types::{Code, Fault as _};
use url::Url;

use crate::fixture::{SETS, database, options};

/// The URL without its query, and the authority's file that stood in it.
fn plain(url: &str) -> (String, PathBuf) {
    let mut url = Url::parse(url).expect("it works");
    url.set_query(None);
    (url.to_string(), Postgres::shared().ca.clone())
}

fn settings(url: &str, ca_file: Option<PathBuf>) -> Settings {
    Settings {
        database_ca_file: ca_file,
        ..Settings::new(url).expect("it works")
    }
}

#[tokio::test]
async fn a_verified_server_is_used_and_no_other() {
    let database = database().await;
    let (url, ca) = plain(&database.url("trailmesh_tenant"));
    Pool::open(&settings(&url, Some(ca.clone())), "tenant", false)
        .await
        .unwrap();
    // Signed by somebody else, or by nobody we know.
    let folder = tempfile::tempdir().unwrap();
    let other = Authority::new(folder.path()).bundle_file();
    for wrong in [Some(other), None] {
        let error = Pool::open(&settings(&url, wrong), "tenant", false)
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.reason()),
            (Code::Refused, "DATABASE_REFUSED"),
            "{error:?}"
        );
    }
    // Asking for less than verification is refused before anything is sent.
    let asked_plainly = format!("{url}?sslmode=require");
    let error = Pool::open(&settings(&asked_plainly, Some(ca)), "tenant", false)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "DATABASE_SETTINGS", "{error:?}");
}

#[tokio::test]
async fn migrations_too_go_to_a_verified_server_only() {
    let database = database().await;
    let (url, ca) = plain(&database.admin_url());
    let strict = migrate::Options {
        dev: false,
        ca_file: Some(ca),
        ..options()
    };
    migrate::run(&url, &SETS, &strict).await.unwrap();
    let blind = migrate::Options {
        ca_file: None,
        ..strict.clone()
    };
    assert_eq!(
        migrate::run(&url, &SETS, &blind).await.unwrap_err().reason(),
        "DATABASE_REFUSED"
    );
    let plain = format!("{url}?sslmode=disable");
    assert_eq!(
        migrate::status(&plain, &SETS, &strict)
            .await
            .unwrap_err()
            .reason(),
        "DATABASE_SETTINGS"
    );
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once() {
    let database = database().await;
    let mut url = Url::parse(&database.url("trailmesh_tenant")).unwrap();
    url.set_password(Some("guess")).unwrap();
    let began = std::time::Instant::now();
    let error = Pool::open(&settings(url.as_str(), None), "tenant", true)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "DATABASE_REFUSED", "{error:?}");
    assert!(!types::chain(&error).contains("guess") && began.elapsed().as_secs() < 5);
}
