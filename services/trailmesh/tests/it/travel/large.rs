//! A tenant with much in it: what a file and a move take of memory, and what a move leaves for its fence.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::Path,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use testkit::Postgres;
use types::{TenantId, UploadId};

use super::{Cell, Scene, stderr};

/// An upload whose store has so many pieces, each of so many kilobytes.
pub(super) fn upload(cell: &Cell, tenant: TenantId, pieces: u32, kilobytes: u32) -> UploadId {
    let id = UploadId::fresh();
    cell.sql_in(
        tenant,
        &format!(
            "INSERT INTO upload (id, name, file, state, bytes, size, attempt, expire_time)
               VALUES ('{id}', 'incident of {id}', 'binlog.000007', 'ready', 3000, 3000, 2, now() + interval '30 days');
             INSERT INTO upload_key (upload_id, envelope, key_version) VALUES ('{id}', 'btv1:x', 1);
             INSERT INTO upload_part (upload_id, number, sealed)
               SELECT '{id}', n, decode(repeat(md5('{id} part ' || n), 60), 'hex') FROM generate_series(0, 2) AS n;
             INSERT INTO upload_file (upload_id, attempt, name, bytes) VALUES ('{id}', 2, 'segments/1', {pieces} * {kilobytes} * 1024);
             INSERT INTO upload_piece (upload_id, attempt, name, number, sealed)
               SELECT '{id}', 2, 'segments/1', n, decode(repeat(md5('{id} ' || n), 64 * {kilobytes}), 'hex') FROM generate_series(1, {pieces}) AS n"
        ),
    );
    id
}

/// Runs it to its end, and tells how many bytes of memory it had at most, as the kernel counts them.
fn peak(command: &mut Command) -> (Output, u64) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    let status = format!("/proc/{}/status", child.id());
    let output = std::thread::spawn(move || child.wait_with_output().unwrap());
    let (mut peak, until) = (0, Instant::now() + Duration::from_secs(300));
    while !output.is_finished() {
        assert!(Instant::now() < until, "it does not end");
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0) << 10);
        std::thread::sleep(Duration::from_millis(1));
    }
    (output.join().unwrap(), peak)
}

/// What the command takes by itself, and a little less: it ends so soon that a busy machine may not have looked at it by then.
const SMALL: u64 = 40 << 20;

/// What may come to the memory of a command for an upload, however large.
const MORE: u64 = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_takes_the_same_memory_for_a_small_tenant_and_a_large_one() {
    let scene = Scene::new().await;
    let (tenant, id) = (scene.tenant, scene.tenant.to_string());
    let files = ["small", "large"].map(|name| scene.folder.path().join(name));
    let export = |file: &Path| {
        let mut command = scene
            .source
            .command(&["export", &id, "--file", file.to_str().unwrap()], &[]);
        let (output, peak) = peak(&mut command);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        peak
    };
    let small = export(&files[0]).max(SMALL);
    upload(&scene.source, tenant, 120, 1024);
    let content = scene.source.content(tenant);
    let large = export(&files[1]);
    assert!(fs::metadata(&files[1]).unwrap().len() > 240 << 20);
    assert!(
        large < small + MORE,
        "an export took {large} bytes, and {small} without an upload"
    );
    let file = files[1].to_str().unwrap();
    let (imported, peak) = peak(&mut scene.target.command(&["import", "--file", file], &[]));
    assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
    assert!(
        peak < small + MORE,
        "an import took {peak} bytes, and a small export {small}"
    );
    assert_eq!(scene.target.content(tenant), content);
}

/// A transaction that somebody has begun and not ended.
pub(super) struct Open {
    psql: Child,
    words: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
}

impl Open {
    fn begin(cell: &Cell) -> Self {
        let mut psql = Command::new(Postgres::shared().bin.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
            .arg(format!("--dbname={}", cell.db.admin_url()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let words = psql.stdin.take().unwrap();
        let told = BufReader::new(psql.stdout.take().unwrap()).lines();
        let mut open = Self { psql, words, told };
        open.say("BEGIN;");
        open
    }

    /// SQL that is done when this returns.
    fn say(&mut self, sql: &str) {
        writeln!(self.words, "{sql}\n\\echo done").unwrap();
        assert!(self.told.any(|line| line.unwrap() == "done"), "{sql}");
    }

    pub(super) fn commit(mut self) {
        self.say("COMMIT;");
        drop(self.words);
        assert!(self.psql.wait().unwrap().success());
    }
}

/// A move that runs, and what it tells.
struct Run {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    told: Vec<String>,
}

impl Run {
    fn begin(scene: &Scene) -> Self {
        let mut command = scene.relocate();
        let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            lines,
            told: Vec::new(),
        }
    }

    fn until(&mut self, step: &str) {
        let named = format!("\"step\":\"{step}\"");
        for line in self.lines.by_ref() {
            self.told.push(line.unwrap());
            if self.told.last().unwrap().contains(&named) {
                return;
            }
        }
        panic!("{step} is not among {:#?}", self.told);
    }

    /// How it ended, and all that it told.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        self.told.extend(self.lines.by_ref().map(Result::unwrap));
        (self.child.wait().unwrap().code(), self.told)
    }
}

/// The sum of a number that steps tell.
fn sum(told: &[String], step: &str, fact: &str) -> u64 {
    let steps = told
        .iter()
        .filter(|line| line.contains(&format!("\"step\":\"{step}\"")));
    let number = |line: &String| {
        let (_, rest) = line.split_once(&format!("\"{fact}\":")).expect("a fact");
        let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next();
        digits.unwrap().parse::<u64>().unwrap()
    };
    steps.map(number).sum()
}

/// While it is open, the tenant is in use: no fence is put up.
pub(super) fn gate(scene: &Scene) -> Open {
    let mut gate = Open::begin(&scene.source);
    let place = format!("t_{}", scene.tenant.digits());
    gate.say(&format!("LOCK TABLE {place}.server IN ROW EXCLUSIVE MODE;"));
    gate
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_is_at_the_destination_before_the_fence_and_what_changed_meanwhile_follows() {
    let scene = Scene::new().await;
    let (tenant, source) = (scene.tenant, &scene.source);
    let place = format!("t_{}", tenant.digits());
    let stays = upload(source, tenant, 100, 1024);
    let goes = upload(source, tenant, 5, 1024);
    // Somebody adds pieces, one in a subtransaction, and is not done when the copying begins. The fence waits for that.
    let mut open = Open::begin(source);
    let add = |number: u32| {
        format!(
            "INSERT INTO {place}.upload_piece (upload_id, attempt, name, number, sealed) VALUES ('{stays}', 2, 'segments/2', {number}, '\\x0{number}');"
        )
    };
    open.say(&add(1));
    open.say(&format!("SAVEPOINT one; {} RELEASE one;", add(2)));
    let gate = gate(&scene);
    let mut run = Run::begin(&scene);
    run.until("waiting");
    source.sql_in(
        tenant,
        &format!(
            "UPDATE upload_part SET sealed = sealed || '\\x01' WHERE upload_id = '{stays}' AND number = 2;
             INSERT INTO upload_part (upload_id, number, sealed) VALUES ('{stays}', 3, '\\x02');
             DELETE FROM upload WHERE id = '{goes}';
             DELETE FROM upload_part WHERE upload_id = '{goes}';
             DELETE FROM upload_file WHERE upload_id = '{goes}';
             DELETE FROM upload_piece WHERE upload_id = '{goes}' AND number <> 4;
             UPDATE upload_piece SET number = 7 WHERE upload_id = '{goes}'"
        ),
    );
    open.commit();
    let content = source.content(tenant);
    gate.commit();
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told:#?}");
    assert_eq!(scene.target.content(tenant), content);
    let before = sum(&told, "prepared", "bytes");
    let (rows, bytes) = (
        sum(&told, "copied", "fenced_rows"),
        sum(&told, "copied", "fenced_bytes"),
    );
    assert!(before > 200 << 20, "{before} bytes before the fence");
    assert!(bytes < 6 << 20, "{rows} rows of {bytes} bytes within the fence");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_moves_of_a_tenant_the_one_that_began_later_brings_it_and_the_other_stops() {
    let scene = Scene::new().await;
    let content = scene.source.content(scene.tenant);
    let gate = gate(&scene);
    let mut first = Run::begin(&scene);
    first.until("waiting");
    let mut second = Run::begin(&scene);
    second.until("discarding");
    second.until("prepared");
    gate.commit();
    let (code, told) = first.end();
    assert_eq!(code, Some(3), "{told:#?}");
    assert!(told.iter().any(|line| line.contains("another run")), "{told:#?}");
    let (code, told) = second.end();
    assert_eq!(code, Some(0), "{told:#?}");
    assert_eq!(scene.target.state(scene.tenant), "active");
    assert_eq!(scene.target.content(scene.tenant), content);
    scene.opens_at_the_destination().await;
}

/// Tenants and schemas of tenants.
const LEFT: &str =
    "SELECT (SELECT count(*) FROM tenant.tenant) + (SELECT count(*) FROM trailmesh.tenant_schemas)";

#[tokio::test(flavor = "multi_thread")]
async fn of_a_tenant_that_ends_while_its_copy_is_made_nothing_is_at_the_destination() {
    let scene = Scene::new().await;
    let tenant = scene.tenant;
    let gate = gate(&scene);
    let mut run = Run::begin(&scene);
    run.until("waiting");
    scene.source.db.sql(&format!(
        "UPDATE tenant.tenant SET state = 'deleting' WHERE id = '{tenant}';
         INSERT INTO tenant.deletion (tenant_id, requested_by) VALUES ('{tenant}', 'x')"
    ));
    gate.commit();
    let (code, told) = run.end();
    assert_eq!(code, Some(3), "{told:#?}");
    assert_eq!(scene.target.db.sql(LEFT), "0");
}

/// Its end is over, row and schema included, before the copy is.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_tenant_that_is_gone_while_its_copy_is_made_nothing_is_at_the_destination() {
    let scene = Scene::new().await;
    let tenant = scene.tenant;
    let mut gate = gate(&scene);
    let mut run = Run::begin(&scene);
    run.until("waiting");
    gate.say(&format!(
        "SET LOCAL session_replication_role = replica;
         DELETE FROM tenant.tenant WHERE id = '{tenant}';
         INSERT INTO tenant.deletion (tenant_id, requested_by) VALUES ('{tenant}', 'x');
         DROP SCHEMA t_{} CASCADE;",
        tenant.digits()
    ));
    gate.commit();
    let (code, told) = run.end();
    assert_eq!(code, Some(3), "{told:#?}");
    assert_eq!(scene.target.db.sql(LEFT), "0", "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_where_a_tenant_was_is_told_where_it_is_until_it_is_back() {
    let scene = Scene::new().await;
    let (tenant, content) = (scene.tenant, scene.source.content(scene.tenant));
    assert!(scene.relocate().output().unwrap().status.success());
    let back = Scene {
        source: scene.target,
        target: scene.source,
        ..scene
    };
    let there = "moved https://cell-2.example";
    for _ in 0..2 {
        let gate = gate(&back);
        let mut run = Run::begin(&back);
        run.until("waiting");
        assert_eq!(back.target.state(tenant), there);
        run.child.kill().unwrap();
        run.child.wait().unwrap();
        assert_eq!(back.target.state(tenant), there);
        gate.commit();
    }
    let moved = back.relocate().output().unwrap();
    assert_eq!(moved.status.code(), Some(0), "{}", stderr(&moved));
    assert_eq!(back.target.state(tenant), "active");
    assert_eq!(back.target.content(tenant), content);
}
