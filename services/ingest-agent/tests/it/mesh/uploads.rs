//! `upload`: what is gone on with, what is said of it, and how long is waited.

use std::{
    collections::VecDeque,
    path::PathBuf,
    process::{Child, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use proto::{
    query::v1::{self as pb, UploadState, upload_service_server::UploadService},
    tenant::v1::{self as tenant, server_service_server::ServerService},
};
use tonic::{Request, Response, Status, Streaming};
use types::{Code, Fault};

use super::{
    Mesh, SERVER,
    door::{State, locked, refuse},
    people::uncalled,
};
use crate::{
    run::{Run, end},
    shop::accident,
};

type Answer<T> = Result<Response<T>, Status>;

const ID: &str = "upl_01hzz0000000000000000000zz";
const FILE: &str = "binlog.000042";
const SIZE: usize = 200_000;

/// The upload that there is, and how the mesh treats it.
#[derive(Default)]
pub(super) struct Uploads {
    there: Mutex<Option<pb::Upload>>,
    servers: Mutex<Vec<tenant::Server>>,
    /// How streams go, one after the other; then all is taken.
    streams: Mutex<VecDeque<Treated>>,
    /// Bytes of the longest message.
    longest: Mutex<usize>,
    /// How often is said that it is being read; none: for ever.
    readings: Mutex<Option<u32>>,
    /// When somebody asked whether it is.
    asked: Mutex<Vec<Instant>>,
}

/// What becomes of a stream.
#[derive(Clone, Copy, Debug)]
enum Treated {
    /// There is no place, and there will be one at once.
    Full,
    /// It ends in order with nothing of it taken.
    Lost,
}

#[derive(Debug, thiserror::Error)]
#[error("too many files are coming at the moment")]
struct Full;

impl Fault for Full {
    fn code(&self) -> Code {
        Code::Exhausted
    }
    fn reason(&self) -> &'static str {
        "STREAM_LIMIT"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

impl Uploads {
    fn upload(&self) -> Result<pb::Upload, Status> {
        let there = locked(&self.there).clone();
        there.ok_or_else(|| refuse(Code::Missing, "UPLOAD_NOT_FOUND", "there is no such upload"))
    }
}

#[tonic::async_trait]
impl UploadService for State {
    async fn create_upload(
        &self,
        request: Request<pb::CreateUploadRequest>,
    ) -> Answer<pb::CreateUploadResponse> {
        let new = request.into_inner();
        let upload = pb::Upload {
            id: ID.to_owned(),
            name: new.name,
            file: new.file,
            size: new.size,
            server_id: new.server_id,
            state: UploadState::Open.into(),
            ..pb::Upload::default()
        };
        *locked(&self.uploads.there) = Some(upload.clone());
        let upload = Some(upload);
        Ok(Response::new(pb::CreateUploadResponse { upload }))
    }

    async fn upload_file(
        &self,
        request: Request<Streaming<pb::UploadFileRequest>>,
    ) -> Answer<pb::UploadFileResponse> {
        let treated = locked(&self.uploads.streams).pop_front();
        if matches!(treated, Some(Treated::Full)) {
            return Err(chassis::status(&Full));
        }
        let mut stream = request.into_inner();
        let first = stream.message().await?.expect("a first message");
        let mut upload = self.uploads.upload()?;
        assert_eq!((first.upload_id, first.offset), (upload.id.clone(), upload.bytes));
        while let Some(message) = stream.message().await? {
            let mut longest = locked(&self.uploads.longest);
            *longest = message.data.len().max(*longest);
            upload.bytes += message.data.len() as u64;
        }
        if treated.is_none() {
            *locked(&self.uploads.there) = Some(upload);
        }
        let next_offset = self.uploads.upload()?.bytes;
        Ok(Response::new(pb::UploadFileResponse { next_offset }))
    }

    async fn finish_upload(&self, _: Request<pb::FinishUploadRequest>) -> Answer<pb::FinishUploadResponse> {
        locked(&self.uploads.asked).push(Instant::now());
        let mut readings = locked(&self.uploads.readings);
        let reads = readings.is_none_or(|left| left > 0);
        *readings = readings.map(|left| left.saturating_sub(1));
        let state = if reads {
            UploadState::Reading
        } else {
            UploadState::Ready
        };
        let upload = Some(pb::Upload {
            state: state.into(),
            ..self.uploads.upload()?
        });
        Ok(Response::new(pb::FinishUploadResponse { upload }))
    }

    async fn get_upload(&self, _: Request<pb::GetUploadRequest>) -> Answer<pb::GetUploadResponse> {
        let upload = Some(self.uploads.upload()?);
        Ok(Response::new(pb::GetUploadResponse { upload }))
    }

    async fn list_uploads(&self, _: Request<pb::ListUploadsRequest>) -> Answer<pb::ListUploadsResponse> {
        Ok(Response::new(pb::ListUploadsResponse {
            uploads: locked(&self.uploads.there).clone().into_iter().collect(),
            next_page_token: String::new(),
        }))
    }

    async fn delete_upload(&self, _: Request<pb::DeleteUploadRequest>) -> Answer<pb::DeleteUploadResponse> {
        Err(uncalled())
    }
}

#[tonic::async_trait]
impl ServerService for State {
    async fn list_servers(
        &self,
        _: Request<tenant::ListServersRequest>,
    ) -> Answer<tenant::ListServersResponse> {
        Ok(Response::new(tenant::ListServersResponse {
            servers: locked(&self.uploads.servers).clone(),
            next_page_token: String::new(),
        }))
    }

    async fn register_server(
        &self,
        _: Request<tenant::RegisterServerRequest>,
    ) -> Answer<tenant::RegisterServerResponse> {
        Err(uncalled())
    }

    async fn get_server(&self, _: Request<tenant::GetServerRequest>) -> Answer<tenant::GetServerResponse> {
        Err(uncalled())
    }

    async fn update_server(
        &self,
        _: Request<tenant::UpdateServerRequest>,
    ) -> Answer<tenant::UpdateServerResponse> {
        Err(uncalled())
    }

    async fn delete_server(
        &self,
        _: Request<tenant::DeleteServerRequest>,
    ) -> Answer<tenant::DeleteServerResponse> {
        Err(uncalled())
    }

    async fn set_server_credential(
        &self,
        _: Request<tenant::SetServerCredentialRequest>,
    ) -> Answer<tenant::SetServerCredentialResponse> {
        Err(uncalled())
    }

    async fn list_server_credentials(
        &self,
        _: Request<tenant::ListServerCredentialsRequest>,
    ) -> Answer<tenant::ListServerCredentialsResponse> {
        Err(uncalled())
    }

    async fn delete_server_credential(
        &self,
        _: Request<tenant::DeleteServerCredentialRequest>,
    ) -> Answer<tenant::DeleteServerCredentialResponse> {
        Err(uncalled())
    }
}

/// A mesh, and a log to send there.
struct Sender {
    mesh: Mesh,
    log: PathBuf,
}

impl Sender {
    fn new() -> Self {
        let (store, _) = accident();
        let mesh = Mesh::over(&store);
        let log = mesh.home.path().join(FILE);
        let mut bytes = vec![0; SIZE];
        bytes[..4].copy_from_slice(b"\xfebin");
        std::fs::write(&log, bytes).expect("a log");
        *locked(&mesh.door.state.uploads.readings) = Some(0);
        Self { mesh, log }
    }

    fn uploads(&self) -> &Uploads {
        &self.mesh.door.state.uploads
    }

    fn knows_a_server(&self) {
        *locked(&self.uploads().servers) = vec![tenant::Server {
            id: self.mesh.door.state.server(),
            name: SERVER.to_owned(),
            ..tenant::Server::default()
        }];
    }

    /// There is an upload of this name and file.
    fn has(&self, state: UploadState, bytes: usize, server: &str) {
        *locked(&self.uploads().there) = Some(pb::Upload {
            id: ID.to_owned(),
            name: "accident".to_owned(),
            file: FILE.to_owned(),
            size: SIZE as u64,
            bytes: bytes as u64,
            state: state.into(),
            server_id: server.to_owned(),
            ..pb::Upload::default()
        });
    }

    fn command(&self, more: &[&str]) -> std::process::Command {
        let log = self.log.to_str().expect("a path");
        self.mesh
            .with_key(&[&["upload", log, "--name", "accident"], more].concat())
    }

    fn sends(&self, more: &[&str]) -> Run {
        end(self.command(more))
    }

    fn there(&self) -> pb::Upload {
        self.uploads().upload().expect("an upload")
    }
}

#[test]
fn an_upload_that_was_begun_for_another_server_is_not_gone_on_with() {
    let sender = Sender::new();
    sender.knows_a_server();
    let server = sender.mesh.door.state.server();
    for (state, bytes) in [(UploadState::Open, 100_000), (UploadState::Ready, SIZE)] {
        for (begun, asked, words) in [
            (
                "",
                &["--server", SERVER][..],
                "begun without --server, and this one is with --server srv_",
            ),
            (&server, &[], "and this one is without --server"),
            (
                "srv_01hzz0000000000000000000zz",
                &["--server", &server],
                "begun with --server srv_01hzz",
            ),
        ] {
            sender.has(state, bytes, begun);
            let delete = format!("trail uploads delete {ID}");
            sender.sends(asked).fails(1, &[words, "another --name", &delete]);
            assert_eq!(sender.there().bytes, bytes as u64);
        }
    }
}

#[test]
fn what_was_found_was_not_compared_and_whose_log_it_is_is_said() {
    let sender = Sender::new();
    let run = sender.sends(&[]).ends_with(0);
    assert_eq!(run.err, "");
    assert!(run.out.contains("not said"), "{}", run.out);
    assert_eq!(sender.there().bytes, SIZE as u64);
    assert_eq!(*locked(&sender.uploads().longest), 64 << 10);

    sender.knows_a_server();
    let server = sender.mesh.door.state.server();
    sender.has(UploadState::Open, 100_000, &server);
    let run = sender.sends(&["--server", SERVER]).ends_with(0);
    assert!(run.out.contains(&format!("{SERVER} ({server})")), "{}", run.out);
    let found = "note: 97.7 KiB of 195.3 KiB were found there and not compared with ";
    assert!(
        run.err.starts_with(found) && run.err.contains("going on"),
        "{}",
        run.err
    );
    assert_eq!(run.err.lines().count(), 1, "{}", run.err);
    assert_eq!(sender.there().bytes, SIZE as u64);

    // Begun, and nothing of it there: all of it is this run's.
    sender.has(UploadState::Open, 0, &server);
    let run = sender.sends(&["--server", &server]).ends_with(0);
    assert_eq!(run.err, "");

    sender.has(UploadState::Ready, SIZE, "");
    let run = sender.sends(&[]).ends_with(0);
    for said in [
        "whose log it is was not said",
        "--server NAME says it",
        "accident was found there and not compared with",
        &format!("trail uploads delete {ID}"),
    ] {
        assert!(run.err.contains(said), "{said}: {}", run.err);
    }
}

#[test]
fn streams_that_bring_nothing_are_tries_and_each_wait_is_longer() {
    let sender = Sender::new();
    *locked(&sender.uploads().streams) = [Treated::Full, Treated::Lost, Treated::Full].into();
    let began = Instant::now();
    let run = sender.sends(&[]).ends_with(0);
    // Half a second, one, and two, though the mesh would have taken more at once.
    assert!(
        began.elapsed() >= Duration::from_millis(3_500),
        "{:?}",
        began.elapsed()
    );
    let told: Vec<&str> = run.err.lines().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[1].contains("nothing of what was sent came"), "{told:?}");
    assert_eq!(sender.there().bytes, SIZE as u64);
}

#[test]
fn a_file_that_is_being_read_is_waited_for_until_somebody_wants_no_more() {
    let sender = Sender::new();
    *locked(&sender.uploads().readings) = Some(2);
    sender.sends(&[]).ends_with(0);
    let asked = std::mem::take(&mut *locked(&sender.uploads().asked));
    assert_eq!(asked.len(), 3);
    // A mesh that does not wait before it answers is not asked all the time, but once a second: half of it, because the first question may have
    // come late.
    assert!(asked[1] - asked[0] >= Duration::from_millis(500), "{asked:?}");

    *locked(&sender.uploads().readings) = None;
    sender.has(UploadState::Reading, SIZE, "");
    let mut command = sender.command(&[]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting: Child = command.spawn().expect("trail runs");
    let deadline = Instant::now() + Duration::from_secs(30);
    while locked(&sender.uploads().asked).is_empty() {
        assert!(Instant::now() < deadline, "nobody asks");
        std::thread::sleep(Duration::from_millis(20));
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&waiting),
        rustix::process::Signal::INT,
    )
    .expect("it is there");
    let output = waiting.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.contains("the mesh goes on with that") && said.contains("trail uploads tells when"),
        "{said}"
    );
}
