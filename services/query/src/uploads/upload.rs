//! What an upload is.

use std::time::SystemTime;

use binlog::FileName;
use proto::query::v1 as pb;
use types::{Plan, ServerId, UploadId};

use super::error::Error;

/// Bytes of a chunk of the file as it is stored, and the most of a message.
pub(super) const PART: usize = 1 << 20;

/// Days that an upload is kept if nobody says and the plan has room for them.
pub(super) const DAYS: u32 = 30;

/// Days for which no plan has room.
const DAYS_MAX: u32 = 365;

/// The longest name of a log file.
const FILE: usize = 255;

/// What a binary log begins with, and one that its server encrypted.
const MAGIC: [u8; 4] = [0xFE, b'b', b'i', b'n'];
const ENCRYPTED: [u8; 4] = [0xFD, b'b', b'i', b'n'];

/// Where an upload is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its bytes are coming.
    Open,
    /// All of it came.
    Reading,
    /// It can be asked.
    Ready,
    /// It could not be read.
    Damaged,
}

impl State {
    /// As the table writes it.
    pub(super) fn from_word(word: &str) -> Result<Self, Error> {
        Ok(match word {
            "open" => Self::Open,
            "reading" => Self::Reading,
            "ready" => Self::Ready,
            "damaged" => Self::Damaged,
            _ => return Err(Error::Stored("state")),
        })
    }

    fn wire(self) -> pb::UploadState {
        match self {
            Self::Open => pb::UploadState::Open,
            Self::Reading => pb::UploadState::Reading,
            Self::Ready => pb::UploadState::Ready,
            Self::Damaged => pb::UploadState::Damaged,
        }
    }
}

/// An upload as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) id: UploadId,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) state: State,
    pub(super) bytes: u64,
    pub(super) size: u64,
    pub(super) transactions: u64,
    pub(super) changes: u64,
    pub(super) problem: String,
    pub(super) created: SystemTime,
    pub(super) expires: SystemTime,
    /// Whose log it is, if that was said.
    pub(super) server: Option<ServerId>,
    /// The attempt that read it, or is about to.
    pub(super) attempt: i64,
    /// How many of the tenant's are newer.
    pub(super) newer: u64,
}

impl Upload {
    /// Whether anything may be done with it but deleting it.
    ///
    /// # Errors
    /// [`Error::Frozen`] where the plan has room for those only that are newer.
    pub(super) fn open_to(&self, plan: Plan) -> Result<(), Error> {
        let most = plan.limits().uploads;
        let plan = plan.word();
        (self.newer < u64::from(most))
            .then_some(())
            .ok_or(Error::Frozen { plan, most })
    }
}

impl From<Upload> for pb::Upload {
    fn from(upload: Upload) -> Self {
        Self {
            id: upload.id.to_string(),
            name: upload.name,
            file: upload.file,
            state: upload.state.wire().into(),
            bytes: upload.bytes,
            size: upload.size,
            transactions: upload.transactions,
            changes: upload.changes,
            problem: upload.problem,
            create_time: Some(upload.created.into()),
            expire_time: Some(upload.expires.into()),
            server_id: upload.server.map(|id| id.to_string()).unwrap_or_default(),
            // For who knows the plan to say.
            frozen: false,
        }
    }
}

/// An upload that is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct New {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) size: u64,
    /// For how many days it is to be kept; 0 if nobody says.
    pub(super) days: u32,
    /// Whose log it is, if that is said.
    pub(super) server: Option<ServerId>,
}

impl TryFrom<pb::CreateUploadRequest> for New {
    type Error = Error;

    fn try_from(request: pb::CreateUploadRequest) -> Result<Self, Error> {
        let name = &request.name;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=63).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(plain);
        if !fits {
            return Err(Error::field(
                "name",
                "not 1 to 63 of a-z, 0-9 and -, beginning with a letter",
            ));
        }
        let file = &request.file;
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b':');
        if !(1..=FILE).contains(&file.len()) || !file.bytes().all(plain) {
            return Err(Error::field(
                "file",
                "not the name of a log file, such as binlog.000042, without its folder",
            ));
        }
        if FileName::new(file).number().is_none() {
            return Err(Error::field(
                "file",
                "does not end with a number, which gives logs their order; use the server's own name",
            ));
        }
        if request.retention_days > DAYS_MAX {
            return Err(Error::field("retention_days", "more than 365"));
        }
        let server = match request.server_id.as_str() {
            "" => None,
            id => Some(
                id.parse()
                    .map_err(|_| Error::field("server_id", "not the id of a server: srv_…"))?,
            ),
        };
        Ok(Self {
            name: request.name,
            file: request.file,
            size: request.size,
            days: request.retention_days,
            server,
        })
    }
}

/// What somebody is told of a problem from whom something is hidden: words about a log may name tables and columns, and where it is may not.
pub(super) fn plain(problem: &str) -> String {
    const WORDS: &str = "the file cannot be read further";
    if problem.is_empty() {
        return String::new();
    }
    // `at FILE:OFFSET: …`, and no file's name has a colon.
    let place = problem.strip_prefix("at ").and_then(|rest| rest.split_once(": "));
    match place {
        Some((place, _)) => format!("at {place}: {WORDS}"),
        None => WORDS.to_owned(),
    }
}

/// Looks at the first bytes of a file, as many as have come.
pub(super) fn begins_well(head: &[u8]) -> Result<(), Error> {
    let count = head.len().min(MAGIC.len());
    if head[..count] == MAGIC[..count] {
        return Ok(());
    }
    if head[..count] == ENCRYPTED[..count] {
        return Err(Error::Encrypted);
    }
    Err(Error::NotABinlog)
}

#[cfg(test)]
mod tests {
    use proto::query::v1 as pb;
    use types::Fault as _;

    use super::{Error, New, begins_well, plain};

    fn request() -> pb::CreateUploadRequest {
        pb::CreateUploadRequest {
            name: "before-the-accident".to_owned(),
            file: "binlog.000042".to_owned(),
            size: 0,
            ..pb::CreateUploadRequest::default()
        }
    }

    #[test]
    fn what_cannot_begin_says_which_field_is_wrong() {
        let good = New::try_from(request()).unwrap();
        assert_eq!((good.days, good.size), (0, 0));
        type Change = fn(&mut pb::CreateUploadRequest);
        let wrong: [(&str, Change); 11] = [
            ("name", |r| r.name.clear()),
            ("name", |r| r.name = "Accident".to_owned()),
            ("name", |r| r.name = "x".repeat(64)),
            ("file", |r| r.file.clear()),
            ("file", |r| r.file = "/var/lib/mysql/binlog.000042".to_owned()),
            ("file", |r| r.file = "binlog".to_owned()),
            ("file", |r| r.file = "bin\nlog.000001".to_owned()),
            ("file", |r| r.file = format!("{}.000001", "x".repeat(255))),
            ("retention_days", |r| r.retention_days = 366),
            ("server_id", |r| r.server_id = "db-1".to_owned()),
            ("server_id", |r| r.server_id = "srv_1".to_owned()),
        ];
        for (field, change) in wrong {
            let mut request = request();
            change(&mut request);
            let no = New::try_from(request).unwrap_err();
            assert_eq!((no.field(), no.reason()), (Some(field), "FIELD_INVALID"), "{no}");
        }
    }

    #[test]
    fn a_problem_without_its_words_has_its_place() {
        let words = "at binlog.000042:4711: the log does not name the columns of hr.salaries: set it";
        assert_eq!(
            plain(words),
            "at binlog.000042:4711: the file cannot be read further"
        );
        let words = "a row of hr.salaries in the transaction at binlog.000042:4711 cannot be stored: at 4: x";
        assert_eq!(plain(words), "the file cannot be read further");
        assert_eq!(plain(""), "");
    }

    #[test]
    fn a_file_is_known_by_as_many_bytes_as_have_come() {
        for good in [&b""[..], b"\xfe", b"\xfebi", b"\xfebin", b"\xfebin and more"] {
            assert!(begins_well(good).is_ok(), "{good:?}");
        }
        for bad in [&b"x"[..], b"\xfebim", b"-- SQL"] {
            assert!(matches!(begins_well(bad), Err(Error::NotABinlog)), "{bad:?}");
        }
        assert!(matches!(begins_well(b"\xfdbin"), Err(Error::Encrypted)));
    }
}
