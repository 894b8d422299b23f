//! A move that stops halfway, wherever that is.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use super::{Scene, large, stderr};

/// How many copies are served, and whether one is whole, whatever was killed.
fn at_any_moment(scene: &Scene, content: &str, when: &str) {
    let (here, there) = (scene.source.state(scene.tenant), scene.target.state(scene.tenant));
    assert!(
        !(here == "active" && there == "active"),
        "two copies are served {when}"
    );
    let whole = if here == "active" {
        &scene.source
    } else {
        &scene.target
    };
    assert_eq!(whole.content(scene.tenant), content, "{when}: {here}, {there}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_at_any_step_is_finished_by_the_next() {
    for step in [
        "ahead", "prepared", "fenced", "table", "copied", "leaving", "moved", "arriving", "arrived",
    ] {
        let scene = Scene::new().await;
        let content = scene.source.content(scene.tenant);
        // It goes on until it is killed: past the fence it may have moved by then, with nothing left to be discarded.
        let gate = (step == "prepared").then(|| large::gate(&scene));
        let child = scene
            .relocate()
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let named = format!("\"step\":\"{step}\"");
        assert!(lines.any(|line| line.unwrap().contains(&named)), "{step}");
        child.kill().unwrap();
        child.wait().unwrap();
        if let Some(gate) = gate {
            gate.commit();
        }
        at_any_moment(&scene, &content, &format!("killed after {step}"));
        let again = scene.relocate().output().unwrap();
        assert_eq!(again.status.code(), Some(0), "after {step}: {}", stderr(&again));
        if step == "prepared" {
            assert!(stderr(&again).contains("discarding"), "{}", stderr(&again));
        }
        if step == "copied" {
            // Nearly always before the commit that is the move, which takes a moment.
            let known = ["discarding", "resumed"].map(|word| stderr(&again).contains(word));
            assert!(known[0] || known[1], "{}", stderr(&again));
        }
        assert_eq!(scene.source.state(scene.tenant), "moved https://cell-2.example");
        assert_eq!(scene.target.state(scene.tenant), "active", "after {step}");
        assert_eq!(scene.target.content(scene.tenant), content, "after {step}");
        scene.opens_at_the_destination().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_behind_which_the_source_could_not_be_left_is_begun_anew() {
    let scene = Scene::new().await;
    let content = scene.source.content(scene.tenant);
    // The last statement before the commit fails.
    scene.source.db.sql(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
         CREATE TRIGGER no BEFORE UPDATE OF moved_to ON tenant.tenant FOR EACH ROW EXECUTE FUNCTION public.no()",
    );
    let failed = scene.relocate().output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    assert_eq!(scene.target.state(scene.tenant), "suspended");
    at_any_moment(&scene, &content, "after a failure");
    scene.source.db.sql("DROP TRIGGER no ON tenant.tenant");
    // What changes meanwhile comes along too.
    scene.source.sql_in(scene.tenant, "UPDATE server SET version = 7");
    let content = scene.source.content(scene.tenant);
    let again = scene.relocate().output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(stderr(&again).contains("discarding"), "{}", stderr(&again));
    assert_eq!(scene.target.content(scene.tenant), content);
    scene.opens_at_the_destination().await;
}
