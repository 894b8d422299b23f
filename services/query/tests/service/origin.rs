//! Uploaded logs of which it is said whose they are: fragments, whose tables got their names in a piece before.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::stream;
use http::uri::PathAndQuery;
use ingest_agent::{index::index, options::Index};
use prost::Message as _;
use proto::{
    query::v1 as pb,
    tenant::v1::AccessRule,
    vault::v1::{self as vault, secret_service_server::SecretService},
};
use testkit::{Engine, Server};
use tokio::task::block_in_place;
use tonic::{Code, Request, Response, Status, client::Grpc};
use types::{Context, Role};

use crate::{
    neighbours::{Neighbours, deny},
    pages::tables,
    world::{No, Rpc, World, eventually},
};

const CANARY: &str = "canary-origin";

/// A vault that seals nothing: what it is given is what it gives back.
#[tonic::async_trait]
impl SecretService for Neighbours {
    async fn seal_secret(
        &self,
        request: Request<vault::SealSecretRequest>,
    ) -> Result<Response<vault::SealSecretResponse>, Status> {
        let value = request.into_inner().value;
        let envelope = value.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Response::new(vault::SealSecretResponse {
            envelope,
            key_version: 1,
        }))
    }

    async fn open_sink_secret(
        &self,
        _: Request<vault::OpenSinkSecretRequest>,
    ) -> Result<Response<vault::OpenSinkSecretResponse>, Status> {
        unreachable!("no test has a sink")
    }

    async fn open_upload_key(
        &self,
        request: Request<vault::OpenUploadKeyRequest>,
    ) -> Result<Response<vault::OpenUploadKeyResponse>, Status> {
        let envelope = request.into_inner().envelope;
        let byte = |at: usize| u8::from_str_radix(&envelope[at..at + 2], 16).unwrap();
        let value: Vec<u8> = (0..envelope.len()).step_by(2).map(byte).collect();
        Ok(Response::new(vault::OpenUploadKeyResponse {
            value: value.into(),
        }))
    }
}

macro_rules! uploads {
    ($($method:literal: $request:ident -> $answer:ident;)*) => {
        $(impl Rpc for pb::$request {
            const PATH: &'static str = concat!("/trailmesh.query.v1.UploadService/", $method);
            type Answer = pb::$answer;
        })*
    };
}

uploads! {
    "CreateUpload": CreateUploadRequest -> CreateUploadResponse;
    "UploadFile": UploadFileRequest -> UploadFileResponse;
    "FinishUpload": FinishUploadRequest -> FinishUploadResponse;
    "GetUpload": GetUploadRequest -> GetUploadResponse;
}

/// Two logs of one server, one after the other.
struct Logs {
    schema: String,
    before: PathBuf,
    after: PathBuf,
}

impl Logs {
    /// `pay` gets another name in the first one, and `seen` has the same in both.
    fn record(engine: Engine) -> Self {
        block_in_place(|| {
            let server = Server::shared(engine);
            let schema = server.schema("origin");
            let run = |script: &str| {
                let name = format!("`{}`", schema.name);
                server.record(&script.replace("{s}", &name)).0
            };
            let before = run("CREATE TABLE {s}.pay (id INT PRIMARY KEY, note VARCHAR(40));
                 CREATE TABLE {s}.seen (id INT PRIMARY KEY, note VARCHAR(40));
                 RENAME TABLE {s}.pay TO {s}.pay2");
            let after = run(&format!(
                "INSERT INTO {{s}}.pay2 VALUES (1, '{CANARY}'); INSERT INTO {{s}}.seen VALUES (1, 'seen')"
            ));
            Self {
                schema: schema.name.clone(),
                before,
                after,
            }
        })
    }

    /// What an agent has that has read one of them.
    fn store(&self, world: &World, log: &Path) -> PathBuf {
        let store = world.folder.path().join(log.file_name().unwrap());
        let wanted = Index {
            files: vec![log.to_owned()],
            store: store.clone(),
            schema_from: None,
        };
        block_in_place(|| index(&wanted, &mut |_| {})).unwrap();
        store
    }

    fn denial(&self) -> AccessRule {
        deny(&format!("{}.pay", self.schema), &[])
    }
}

fn create(name: &str, file: &Path, server: &str) -> pb::CreateUploadRequest {
    pb::CreateUploadRequest {
        name: name.to_owned(),
        file: file.file_name().unwrap().to_str().unwrap().to_owned(),
        server_id: server.to_owned(),
        ..pb::CreateUploadRequest::default()
    }
}

/// Uploads a file, and gives the upload's id once it can be asked.
async fn upload(world: &World, name: &str, file: &Path, server: &str) -> String {
    let operator = world.person(Role::Operator);
    let begun = world.ask(&operator, create(name, file, server)).await.unwrap();
    let begun = begun.upload.unwrap();
    assert_eq!(begun.server_id, server);
    let message = pb::UploadFileRequest {
        upload_id: begun.id.clone(),
        offset: 0,
        data: fs::read(file).unwrap().into(),
    };
    let mut grpc = Grpc::new(world.peer.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<_, pb::UploadFileResponse>::default();
    let request = World::request(&operator, stream::iter([message]));
    let path = PathAndQuery::from_static(pb::UploadFileRequest::PATH);
    let deadline = Instant::now() + Duration::from_secs(30);
    let call = grpc.client_streaming(request, path, codec);
    chassis::deadline::within(deadline, call).await.unwrap();
    let finish = pb::FinishUploadRequest {
        upload_id: begun.id.clone(),
        keep_what_came: false,
    };
    world.ask(&operator, finish).await.unwrap();
    eventually("the upload to be read", async || {
        let asked = pb::GetUploadRequest {
            upload_id: begun.id.clone(),
        };
        let upload = world.ask(&operator, asked).await.unwrap().upload.unwrap();
        (upload.state() == pb::UploadState::Ready).then_some(upload)
    })
    .await
    .id
}

/// The tables whose changes somebody sees: of all, or of one that is named.
async fn seen(
    world: &World,
    person: &Context,
    upload: &str,
    named: &[(&str, &str)],
) -> Result<Vec<String>, No> {
    let asked = pb::QueryChangesRequest {
        server: upload.to_owned(),
        filter: Some(tables(named)),
        ..pb::QueryChangesRequest::default()
    };
    let page = world.ask(person, asked).await?;
    let names = page.changes.iter().map(|change| change.table.clone());
    let names = names.collect::<Vec<_>>();
    let shown = page.encode_to_vec();
    let canary = shown.windows(CANARY.len()).any(|word| word == CANARY.as_bytes());
    assert_eq!(canary, names.iter().any(|name| name == "pay2"));
    Ok(names)
}

fn is_denied<T: std::fmt::Debug>(answer: Result<T, No>) {
    let no = answer.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "TABLE_DENIED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_renamed_before_the_uploaded_piece_of_the_log_stays_hidden() {
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let mut world = World::new().await;
        let logs = Logs::record(engine);
        let server = world.server(logs.store(&world, &logs.before), &[logs.denial()]);
        let late = world.server(logs.store(&world, &logs.after), &[]);
        world.connect().await;
        let (analyst, operator) = (world.person(Role::Analyst), world.person(Role::Operator));
        let schema = logs.schema.as_str();
        let (pay, other) = ([(schema, "pay2")], [(schema, "seen")]);
        let both = ["pay2".to_owned(), "seen".to_owned()];
        let sorted = async |person: &Context, upload: &str| {
            let mut names = seen(&world, person, upload, &[]).await.unwrap();
            names.sort();
            names
        };
        // Nobody says whose it is: names are those of the file.
        let nobodys = upload(&world, "nobodys", &logs.after, "").await;
        assert_eq!(sorted(&analyst, &nobodys).await, both);
        // The server's agent knows the name of before.
        let its = upload(&world, "its", &logs.after, &server).await;
        assert_eq!(sorted(&operator, &its).await, both);
        assert_eq!(seen(&world, &analyst, &its, &[]).await.unwrap(), both[1..]);
        is_denied(seen(&world, &analyst, &its, &pay).await);
        let asked = pb::StreamChangesRequest {
            server: its.clone(),
            ..pb::StreamChangesRequest::default()
        };
        let frames = world.all(&analyst, asked).await.unwrap();
        assert!(!format!("{frames:?}").contains(CANARY));
        assert_eq!(frames.iter().map(|frame| frame.changes.len()).sum::<usize>(), 1);
        let asked = pb::ListTablesRequest { server: its.clone() };
        let listed = world.ask(&analyst, asked).await.unwrap();
        assert_eq!((listed.tables.len(), listed.tables_hidden), (1, 1));
        // That of another server does not.
        let others = upload(&world, "others", &logs.after, &late).await;
        assert_eq!(sorted(&analyst, &others).await, both);
        // So does the piece before, once it is there: for what is of the same server or may be.
        upload(&world, "before", &logs.before, &server).await;
        assert_eq!(sorted(&analyst, &nobodys).await, both[1..]);
        is_denied(seen(&world, &analyst, &nobodys, &pay).await);
        assert_eq!(sorted(&analyst, &others).await, both);
        upload(&world, "anybodys", &logs.before, "").await;
        assert_eq!(sorted(&analyst, &others).await, both[1..]);
        // Nobody can be asked what was before: then nothing is shown, to whom something is hidden.
        world.hang_up();
        eventually("the agent to be gone", async || {
            let answer = seen(&world, &analyst, &its, &other).await;
            answer.is_err().then_some(())
        })
        .await;
        is_denied(seen(&world, &analyst, &its, &other).await);
        assert!(seen(&world, &analyst, &its, &[]).await.unwrap().is_empty());
        assert_eq!(sorted(&operator, &its).await, both);
        assert_eq!(seen(&world, &analyst, &nobodys, &other).await.unwrap(), both[1..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_of_a_server_that_its_owner_sees() {
    let mut world = World::new().await;
    let logs = Logs::record(Engine::Mariadb);
    let server = world.server(logs.store(&world, &logs.before), &[logs.denial()]);
    world.connect().await;
    let (operator, analyst) = (world.person(Role::Operator), world.person(Role::Analyst));
    let nobodys = types::ServerId::fresh().to_string();
    for wrong in ["db-1", "srv_1", nobodys.as_str()] {
        let asked = create("one", &logs.after, wrong);
        let no = world.ask(&operator, asked).await.unwrap_err();
        assert_eq!(
            (no.code, no.field.as_str()),
            (Code::InvalidArgument, "server_id"),
            "{wrong}"
        );
    }
    // The server goes, and with it what only its agent knew.
    let its = upload(&world, "one", &logs.after, &server).await;
    assert_eq!(seen(&world, &analyst, &its, &[]).await.unwrap(), ["seen"]);
    // Its rule is for all servers, and stays.
    world.neighbours.forget(world.tenant, &server);
    eventually("the server to be gone", async || {
        let shown = seen(&world, &analyst, &its, &[]).await.unwrap();
        shown.is_empty().then_some(())
    })
    .await;
    assert_eq!(seen(&world, &operator, &its, &[]).await.unwrap().len(), 2);
}
