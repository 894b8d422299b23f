//! Entries in the forms that other systems read: OCSF, ECS and CEF, one line each, and the frame of syslog around it.
//!
//! What holds, whatever the fields contain ([`line`]):
//! * one line: no CR, LF, NUL or other control character, no line separator of Unicode, nothing that reorders or hides text; such
//!   characters are written out as `\u{202e}`. The exact bytes are in the native export;
//! * JSON is plain ASCII, so that it is a message of syslog as it is;
//! * at most [`LONGEST`] bytes: what is too long is cut and ends in `...`;
//! * no field can end itself, or begin another one.

mod cef;
mod ecs;
mod fields;
mod method;
mod ocsf;
pub mod syslog;
mod text;

use crate::Event;
use fields::Fields;

/// The most bytes of a line. Receivers of syslog over TLS take 8,192 with their frame (RFC 5425 section 4.3.1).
pub const LONGEST: usize = 7_600;

/// What the program calls itself.
const PRODUCT: &str = "Trailmesh";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Forms in which an entry leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The Open Cybersecurity Schema Framework, 1.6.
    Ocsf,
    /// The Elastic Common Schema, 8.11.
    Ecs,
    /// The Common Event Format, version 0.
    Cef,
}

impl Format {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Ocsf, Self::Ecs, Self::Cef];

    /// As settings and tables write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ocsf => "ocsf",
            Self::Ecs => "ecs",
            Self::Cef => "cef",
        }
    }

    /// The one that is written so.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.word() == word)
    }
}

/// Whose log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `tnt_…`
    pub tenant: String,
    /// The region's word.
    pub region: String,
}

/// The entry as one line, without its end. `sequence` is the number of its last record in the chain.
pub fn line(format: Format, source: &Source, sequence: i64, event: &Event) -> String {
    let mut written = String::new();
    for room in [512, 128, 48] {
        let fields = Fields::of(source, sequence, event, room);
        written = match format {
            Format::Ocsf => text::ascii(&ocsf::json(&fields)),
            Format::Ecs => text::ascii(&ecs::json(&fields)),
            Format::Cef => cef::line(&fields),
        };
        if written.len() <= LONGEST {
            break;
        }
    }
    written
}
