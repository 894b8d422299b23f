//! `upload`: sends binary log files to a mesh, and goes on where it stopped.

use std::{
    collections::BTreeSet,
    io::SeekFrom,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{Stream, stream};
use indicatif::ProgressBar;
use proto::query::v1::{
    CreateUploadRequest, FinishUploadRequest, GetUploadRequest, Upload, UploadFileRequest, UploadState,
    upload_service_client::UploadServiceClient,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};
use types::{Code, ServerId};

use super::{
    block_on, servers,
    uploads::{Report, all},
};
use crate::{
    cli::{
        args, note,
        report::{facts, print, print_json, size},
        verify::bar,
    },
    error::Error,
    exit::Exit,
    remote::{Mesh, SHORT, Said},
    render::ReportFormat,
};

/// Bytes of one message: the mesh waits for a minute for the next, and lines are slow.
const MESSAGE: usize = 64 << 10;
/// Streams that bring nothing, one after the other, before it is given up.
const TRIES: u32 = 8;
/// The first wait between two; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// One question whether the file is read, and the least time from one to the next: the mesh waits a while before it says that it is not.
const FINISH: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);

/// What a binary log begins with, and one that its server encrypted.
const MAGIC: &[u8; 4] = b"\xfebin";
const MAGIC_ENCRYPTED: &[u8; 4] = b"\xfdbin";

/// A file that is to be sent.
struct Source {
    path: PathBuf,
    /// The upload's name.
    name: String,
    /// The log's own name.
    file: String,
    size: u64,
}

/// Sending one file.
struct Sending<'a> {
    mesh: &'a Mesh,
    args: &'a args::Upload,
    source: &'a Source,
    /// The id of the server whose log it is; empty if nobody says.
    server: &'a str,
    /// For errors.
    what: String,
    bar: ProgressBar,
}

/// `trail upload`.
pub(in crate::cli) fn upload(args: &args::Upload) -> Result<Exit, Error> {
    block_on(async {
        let sources = sources(args).await?;
        let mesh = args.door.door().open().await?;
        let server = server(&mesh, args.server.as_deref()).await?;
        if server.is_empty() && servers::all(&mesh).await.is_ok_and(|servers| !servers.is_empty()) {
            note::note(
                "whose log it is was not said: access rules hold for its tables by the names in the file only; --server NAME says it",
            );
        }
        let (mut done, mut outcome) = (Vec::new(), Ok(()));
        for source in &sources {
            match Sending::new(&mesh, args, source, &server).run().await {
                Ok(upload) if args.report.format == ReportFormat::Table => {
                    print(&describe(&upload, args.server.as_deref()))?;
                    done.push(upload);
                }
                Ok(upload) => done.push(upload),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if args.report.format != ReportFormat::Table {
            print_json(&Report::of(&done), args.report.format)?;
        }
        outcome?;
        let cut = done.iter().any(|upload| !upload.problem.is_empty());
        Ok(if cut { Exit::Incomplete } else { Exit::Done })
    })
}

/// The id of a server that is named in either way.
async fn server(mesh: &Mesh, given: Option<&str>) -> Result<String, Error> {
    let Some(given) = given else {
        return Ok(String::new());
    };
    if given.starts_with("srv_") {
        return Ok(given
            .parse()
            .map_or_else(|_| given.to_owned(), |id: ServerId| id.to_string()));
    }
    let servers = servers::all(mesh).await?;
    let found = servers.into_iter().find(|server| server.name == given);
    found.map(|server| server.id).ok_or_else(|| {
        Error::new(
            Code::Missing,
            format!("server {given}"),
            "there is no such server",
        )
        .hint("trail servers lists those you may see; without --server the log stands for itself")
    })
}

/// The files, looked at before anything is asked: a mistake in the last one is told before the first one is sent.
async fn sources(args: &args::Upload) -> Result<Vec<Source>, Error> {
    let several = args.files.len() > 1;
    let (mut sources, mut names) = (Vec::new(), BTreeSet::new());
    for path in &args.files {
        let source = source(path, &args.name, several).await?;
        if !names.insert(source.name.clone()) {
            let why = format!("two of the files would be called {}", source.name);
            return Err(Error::new(Code::Invalid, path.display(), why)
                .hint("send them one by one, each with a --name of its own"));
        }
        sources.push(source);
    }
    Ok(sources)
}

async fn source(path: &Path, name: &str, several: bool) -> Result<Source, Error> {
    let failed = |error: std::io::Error| Error::from_io(path.display(), &error);
    let mut log = File::open(path).await.map_err(failed)?;
    let about = log.metadata().await.map_err(failed)?;
    if !about.is_file() {
        return Err(Error::new(Code::Invalid, path.display(), "it is no file"));
    }
    let mut head = Vec::with_capacity(MAGIC.len());
    let looked = (&mut log).take(MAGIC.len() as u64).read_to_end(&mut head).await;
    looked.map_err(failed)?;
    if head == MAGIC_ENCRYPTED {
        let why = "it is encrypted: only the server that wrote it can read it";
        return Err(Error::new(Code::Invalid, path.display(), why)
            .hint("follow that server with trail agent, or read its log with trail watch"));
    }
    if head != MAGIC {
        let why = "it is not a binary log: it does not begin with FE 62 69 6E";
        return Err(Error::new(Code::Invalid, path.display(), why)
            .hint("give a file as the server wrote it: not a dump, not compressed, not mysqlbinlog's text"));
    }
    let file = path
        .file_name()
        .and_then(|file| file.to_str())
        .unwrap_or_default();
    let suffix = file.rsplit_once('.').map_or(file, |(_, suffix)| suffix);
    Ok(Source {
        path: path.to_owned(),
        name: if several {
            format!("{name}-{}", suffix.to_lowercase())
        } else {
            name.to_owned()
        },
        file: file.to_owned(),
        size: about.len(),
    })
}

impl<'a> Sending<'a> {
    fn new(mesh: &'a Mesh, args: &'a args::Upload, source: &'a Source, server: &'a str) -> Self {
        let bar = bar();
        bar.set_length(source.size);
        Self {
            mesh,
            args,
            source,
            server,
            what: format!("upload {}", source.name),
            bar,
        }
    }

    /// All of it, from wherever it stopped before.
    async fn run(&self) -> Result<Upload, Error> {
        let mut upload = match self.begun().await? {
            Some(upload) => upload,
            None => self.create().await?,
        };
        if upload.state() == UploadState::Open {
            let sent = self.send(&mut upload).await;
            self.bar.finish_and_clear();
            sent?;
        }
        self.finish(upload).await
    }

    /// The upload that an earlier run began, of the same file by what can be told of it from here.
    async fn begun(&self) -> Result<Option<Upload>, Error> {
        let uploads = all(self.mesh).await?;
        let Some(upload) = uploads.into_iter().find(|upload| upload.name == self.source.name) else {
            return Ok(None);
        };
        let why = if upload.file != self.source.file || upload.size != self.source.size {
            format!(
                "there is one already, of {} with {} bytes; {} has {}",
                upload.file,
                upload.size,
                self.source.path.display(),
                self.source.size
            )
        } else if upload.server_id != self.server {
            let (there, here) = (given(&upload.server_id), given(self.server));
            format!("there is one already of this file, begun {there}, and this one is {here}")
        } else {
            self.found(&upload);
            return Ok(Some(upload));
        };
        let hint = format!(
            "choose another --name, or delete that one: trail uploads delete {}",
            upload.id
        );
        Err(Error::new(Code::Conflict, &self.what, why).hint(hint))
    }

    /// Says what of an upload this run did not send.
    fn found(&self, upload: &Upload) {
        let (there, whole) = (size(upload.bytes), size(upload.size));
        let file = self.source.path.display();
        let words = match upload.state() {
            UploadState::Open if upload.bytes == 0 => return,
            UploadState::Open => {
                format!("{there} of {whole} were found there and not compared with {file}; going on")
            }
            _ => format!(
                "{} was found there and not compared with {file}; trail uploads delete {} lets it be sent anew",
                upload.name, upload.id
            ),
        };
        self.bar.suspend(|| note::note(&words));
    }

    async fn create(&self) -> Result<Upload, Error> {
        let request = CreateUploadRequest {
            name: self.source.name.clone(),
            file: self.source.file.clone(),
            size: self.source.size,
            retention_days: self.args.retention_days.unwrap_or_default(),
            server_id: self.server.to_owned(),
        };
        let asked = self.mesh.try_ask(request, SHORT, |channel, request| async move {
            UploadServiceClient::new(channel).create_upload(request).await
        });
        let said = match asked.await? {
            Ok(answer) => return Ok(answer.into_inner().upload.unwrap_or_default()),
            Err(said) => said,
        };
        // The answer to an earlier try may have been lost on the way.
        if said.reason == "NAME_TAKEN"
            && let Some(upload) = self.begun().await?
        {
            return Ok(upload);
        }
        Err(self.mesh.failure(&self.what, &said))
    }

    async fn get(&self, id: &str) -> Result<Upload, Error> {
        let request = GetUploadRequest {
            upload_id: id.to_owned(),
        };
        let asked = self
            .mesh
            .ask(&self.what, request, SHORT, |channel, request| async move {
                UploadServiceClient::new(channel).get_upload(request).await
            });
        Ok(asked.await?.into_inner().upload.unwrap_or_default())
    }

    /// Stream after stream until all of it is there.
    async fn send(&self, upload: &mut Upload) -> Result<(), Error> {
        let (mut tries, mut pause) = (0, PAUSE);
        while upload.state() == UploadState::Open && upload.bytes < self.source.size {
            let before = upload.bytes;
            let said = match self.stream(&upload.id, before).await? {
                Ok(end) if end > before => {
                    upload.bytes = end;
                    (tries, pause) = (0, PAUSE);
                    continue;
                }
                // Something between here and there ends streams early.
                Ok(_) => Said::own(Code::Unavailable, "NOTHING_CAME", "nothing of what was sent came"),
                Err(said) => said,
            };
            if !goes_on(&said) {
                return Err(self.mesh.failure(&self.what, &said));
            }
            match self.get(&upload.id).await {
                Ok(now) => *upload = now,
                // It is away for a while: that is one more try.
                Err(Error::Failed(failure))
                    if matches!(failure.code, Code::Unavailable | Code::Timeout | Code::Exhausted) => {}
                Err(other) => return Err(other),
            }
            if upload.bytes > before {
                (tries, pause) = (0, PAUSE);
            }
            tries += 1;
            if tries >= TRIES {
                return Err(self
                    .mesh
                    .failure(&self.what, &said)
                    .hint("what was sent is kept; the same command goes on where this one stopped"));
            }
            self.bar.suspend(|| {
                let there = size(upload.bytes);
                let why = if said.is_of_the_line() {
                    "the connection broke"
                } else {
                    &said.words
                };
                note::note(&format!("{why}; going on after {there}"));
            });
            tokio::time::sleep(said.retry_after.unwrap_or_default().max(pause).min(PAUSE_MAX)).await;
            pause *= 2;
        }
        Ok(())
    }

    /// One stream, as far as it comes.
    async fn stream(&self, id: &str, offset: u64) -> Result<Result<u64, Said>, Error> {
        let failed = |error: &std::io::Error| Error::from_io(self.source.path.display(), error);
        let mut log = File::open(&self.source.path)
            .await
            .map_err(|error| failed(&error))?;
        log.seek(SeekFrom::Start(offset))
            .await
            .map_err(|error| failed(&error))?;
        self.bar.set_position(offset);
        let trouble = Arc::new(Mutex::new(None));
        let first = UploadFileRequest {
            upload_id: id.to_owned(),
            offset,
            ..UploadFileRequest::default()
        };
        let reading = Reading {
            first: Some(first),
            log,
            left: self.source.size.saturating_sub(offset),
            bar: self.bar.clone(),
            trouble: Arc::clone(&trouble),
        };
        let sent = self.mesh.send(reading, |channel, request| async move {
            let mut client = UploadServiceClient::new(channel);
            client.upload_file(request.map(Reading::messages)).await
        });
        let sent = sent.await?;
        if let Some(error) = trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(failed(&error));
        }
        Ok(sent.map(|answer| answer.into_inner().next_offset))
    }

    /// Says that it is whole, and waits until it is read.
    async fn finish(&self, upload: Upload) -> Result<Upload, Error> {
        if upload.state() == UploadState::Ready {
            self.bar.finish_and_clear();
            return Ok(upload);
        }
        let waiting = ProgressBar::new_spinner().with_message("the mesh reads the file");
        waiting.enable_steady_tick(Duration::from_millis(200));
        let read = tokio::select! {
            read = self.read(&upload.id) => read,
            Ok(()) = tokio::signal::ctrl_c() => {
                let why = "it is still being read, and the mesh goes on with that";
                let hint = "all of it is there; trail uploads tells when it is ready";
                Err(Error::new(Code::Timeout, &self.what, why).hint(hint))
            }
        };
        waiting.finish_and_clear();
        read
    }

    /// Waits until it is read, for as long as the mesh says that it reads.
    async fn read(&self, id: &str) -> Result<Upload, Error> {
        loop {
            let began = Instant::now();
            let request = FinishUploadRequest {
                upload_id: id.to_owned(),
                keep_what_came: self.args.keep_what_came,
            };
            let asked = self
                .mesh
                .ask(&self.what, request, FINISH, |channel, request| async move {
                    UploadServiceClient::new(channel).finish_upload(request).await
                });
            let upload = asked.await?.into_inner().upload.unwrap_or_default();
            match upload.state() {
                UploadState::Ready => return Ok(upload),
                UploadState::Reading => {}
                other => {
                    let why = format!("the mesh does not read it: {}", other.as_str_name());
                    return Err(Error::new(Code::Internal, &self.what, why));
                }
            }
            tokio::time::sleep(LOOK.saturating_sub(began.elapsed())).await;
        }
    }
}

/// How a command that begins such an upload says whose log it is.
fn given(server: &str) -> String {
    if server.is_empty() {
        "without --server".to_owned()
    } else {
        format!("with --server {server}")
    }
}

/// Whether another stream is likely to bring more.
fn goes_on(said: &Said) -> bool {
    let going = [
        "UPLOAD_TO_BE_CONTINUED",
        // An older stream of ours stored a little more before it ended.
        "UPLOAD_OFFSET_WRONG",
        "STREAM_LIMIT",
        "RATE_LIMITED",
        "VAULT_UNAVAILABLE",
        "NO_ANSWER",
        "BODY_TOO_SLOW",
    ];
    said.passes()
        || going.contains(&said.reason.as_str())
        || matches!(
            said.code,
            Code::Timeout | Code::Unauthenticated | Code::Unavailable
        )
}

/// A file on its way.
struct Reading {
    first: Option<UploadFileRequest>,
    log: File,
    left: u64,
    bar: ProgressBar,
    /// Why it could not be read further.
    trouble: Arc<Mutex<Option<std::io::Error>>>,
}

impl Reading {
    fn messages(self) -> impl Stream<Item = UploadFileRequest> + Send + 'static {
        stream::unfold(self, |mut reading| async {
            let message = reading.next().await?;
            Some((message, reading))
        })
    }

    async fn next(&mut self) -> Option<UploadFileRequest> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(MESSAGE);
        if length == 0 {
            return None;
        }
        let mut data = vec![0; length];
        if let Err(error) = self.log.read_exact(&mut data).await {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            return None;
        }
        self.left -= length as u64;
        self.bar.inc(length as u64);
        Some(UploadFileRequest {
            data: data.into(),
            ..UploadFileRequest::default()
        })
    }
}

/// `server` is how the server was named at the command line.
fn describe(upload: &Upload, server: Option<&str>) -> String {
    if !upload.problem.is_empty() {
        note::note(&format!("what came before is kept: {}", upload.problem));
    }
    let whose = match server {
        _ if upload.server_id.is_empty() => "not said".to_owned(),
        Some(name) if name != upload.server_id => format!("{name} ({})", upload.server_id),
        _ => upload.server_id.clone(),
    };
    facts([
        ("upload", format!("{} ({})", upload.name, upload.id)),
        ("file", format!("{}, {}", upload.file, size(upload.bytes))),
        ("server", whose),
        (
            "holds",
            format!(
                "{} changes in {} transactions",
                upload.changes, upload.transactions
            ),
        ),
        ("next", format!("trail changes --server {}", upload.id)),
    ])
}
