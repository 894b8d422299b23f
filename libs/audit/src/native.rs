//! The native export: a line of JSON that says whose chain it is, with its signed head, and then a line for every record.

use serde::{Deserialize, Serialize};

use crate::{Finding, Hash, Head, HeadError, Keys, Link, Report, SignedHead, Verifier};

/// What the first line says of its kind.
const FORMAT: &str = "trailmesh-audit-v1";

/// No line is longer.
pub const LONGEST_LINE: usize = 128 * 1024;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    /// Whose chain: `tnt_…`
    pub tenant: String,
    /// The last head that was signed when the export began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<SignedHead>,
}

impl Header {
    /// Of this tenant's chain.
    pub fn new(tenant: String, head: Option<SignedHead>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            tenant,
            head,
        }
    }

    /// As a line, without its end.
    ///
    /// # Errors
    /// Never: it is only texts.
    pub fn line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

#[derive(Serialize, Deserialize)]
struct RecordLine<'a> {
    seq: i64,
    prev: std::borrow::Cow<'a, str>,
    hash: std::borrow::Cow<'a, str>,
    body: std::borrow::Cow<'a, str>,
}

impl Link {
    /// As a line of the export, without its end. The body is a text in it, so that no tool between here and there writes it another way.
    ///
    /// # Errors
    /// Never: it is only texts and a number.
    pub fn line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&RecordLine {
            seq: self.sequence,
            prev: self.prev.to_string().into(),
            hash: self.hash.to_string().into(),
            body: self.body.as_str().into(),
        })
    }

    /// Reads such a line.
    pub fn read(line: &str) -> Option<Self> {
        let line: RecordLine<'_> = serde_json::from_str(line).ok()?;
        Some(Self {
            sequence: line.seq,
            prev: Hash::from_hex(&line.prev)?,
            hash: Hash::from_hex(&line.hash)?,
            body: line.body.into_owned(),
        })
    }
}

/// Why an export cannot be judged at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin as one.
    #[error("this is no native export of an audit log")]
    NoExport,
    /// A head was given for another tenant.
    #[error("the head is that of {0}")]
    HeadOfAnother(String),
    /// A head proves nothing.
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// How well a chain is proven, up to where a head covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By a head whose signature was checked.
    Signed,
    /// By a head whose signature was not checked, for want of keys.
    Unchecked,
    /// By nothing: there is no head that covers a record.
    Missing,
}

/// Reads an export line by line.
pub struct Reader {
    verifier: Verifier,
    proof: Proof,
    tenant: String,
    torn: bool,
}

impl Reader {
    /// Begins with the first line. `later` are heads that were kept apart.
    ///
    /// # Errors
    /// When it is no export, or a head is false or somebody else's.
    pub fn new(first_line: &str, keys: Option<&Keys>, later: &[SignedHead]) -> Result<Self, Error> {
        let header: Header = serde_json::from_str(first_line).map_err(|_| Error::NoExport)?;
        if header.format != FORMAT {
            return Err(Error::NoExport);
        }
        Self::of(&header, keys, later)
    }

    /// As [`Self::new`], of a chain that is read from elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn of(header: &Header, keys: Option<&Keys>, later: &[SignedHead]) -> Result<Self, Error> {
        let mut heads = Vec::<Head>::new();
        for signed in header.head.iter().chain(later) {
            let head = match keys {
                Some(keys) => signed.verify(keys)?,
                None => signed.read()?,
            };
            if head.tenant != header.tenant {
                return Err(Error::HeadOfAnother(head.tenant));
            }
            heads.push(head);
        }
        let proof = match (heads.is_empty(), keys) {
            (true, _) => Proof::Missing,
            (false, None) => Proof::Unchecked,
            (false, Some(_)) => Proof::Signed,
        };
        Ok(Self {
            verifier: Verifier::new(&header.tenant, heads),
            proof,
            tenant: header.tenant.clone(),
            torn: false,
        })
    }

    /// The next line; `whole` is whether it had an end. A blank one says nothing.
    pub fn push_line(&mut self, line: &str, whole: bool) {
        if line.trim().is_empty() {
            return;
        }
        match Link::read(line) {
            Some(link) => self.verifier.push(&link),
            None if whole => self.verifier.push_unreadable(),
            None => self.torn = true,
        }
    }

    /// The next record.
    pub fn push(&mut self, link: &Link) {
        self.verifier.push(link);
    }

    /// The next record is not one.
    pub fn push_unreadable(&mut self) {
        self.verifier.push_unreadable();
    }

    /// Whose chain it is.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// There is no more.
    pub fn finish(self) -> (Report, Proof) {
        let next = self.verifier.next();
        let mut report = self.verifier.finish();
        if self.torn && report.finding.is_none() {
            report.finding = Some(Finding::CutOff { first: next });
        }
        // A head of what is not there says nothing of what is.
        let proof = match report.finding {
            None if report.covered == 0 => Proof::Missing,
            _ => self.proof,
        };
        (report, proof)
    }
}
