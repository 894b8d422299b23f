//! Refresh tokens: what they say, and what presenting one means.
//!
//! A session has one live generation. Its token works once: presenting it makes the next generation. Who presents an older one within ten
//! seconds of the moment at which *that* one was replaced lost the answer or was beaten by another tab, and gets the live one; nothing
//! rotates, so nothing forks and the ten seconds never move. Who presents an older one later has a copy that should not be: the session ends.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};
use types::{Micros, SessionId};

/// What a refresh token begins with, so that it is recognised wherever it should not be.
pub(crate) const PREFIX: &str = "bt_rt_";

/// How long a replaced token still gets the live one.
const WINDOW: i64 = 10_000_000;

/// How many replacements are remembered; a client that makes more in ten seconds is none of ours.
const MOST_RECENT: usize = 8;

const VERSION: u8 = 1;
const ID: usize = 26;
const MAC: usize = 16;
const SIGNED: usize = 1 + ID + 4;
const LENGTH: usize = SIGNED + MAC + 4;

/// A refresh token as it was presented: whole and undamaged, but not yet known to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) session: SessionId,
    pub(crate) generation: u32,
    mac: [u8; MAC],
}

impl Presented {
    /// Reads a token. Whatever is not one is found out without asking anybody.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let bytes: [u8; LENGTH] = bytes.try_into().ok()?;
        let (body, sum) = bytes.split_at(LENGTH - 4);
        if sum != crc32fast::hash(body).to_be_bytes() || body[0] != VERSION {
            return None;
        }
        let digits = str::from_utf8(&body[1..=ID]).ok()?;
        Some(Self {
            session: format!("{}_{digits}", SessionId::PREFIX).parse().ok()?,
            generation: u32::from_be_bytes(body[1 + ID..SIGNED].try_into().ok()?),
            mac: body[SIGNED..].try_into().ok()?,
        })
    }

    /// Whether it was made with the session's key. The time it takes says nothing.
    pub(crate) fn is_made_with(&self, key: &[u8]) -> bool {
        let (_, mac) = sign(self.session, self.generation, key);
        mac.iter()
            .zip(self.mac)
            .fold(0, |differences, (a, b)| differences | (a ^ b))
            == 0
    }
}

/// The token of one generation of a session.
pub(crate) fn token(session: SessionId, generation: u32, key: &[u8]) -> String {
    let (mut bytes, mac) = sign(session, generation, key);
    bytes.extend(mac);
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn sign(session: SessionId, generation: u32, key: &[u8]) -> (Vec<u8>, [u8; MAC]) {
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.push(VERSION);
    bytes.extend(session.digits().to_string().bytes());
    bytes.extend(generation.to_be_bytes());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &bytes);
    let mut mac = [0; MAC];
    mac.copy_from_slice(&tag.as_ref()[..MAC]);
    (bytes, mac)
}

/// When a generation was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// Which.
    pub(crate) generation: u32,
    /// Microseconds since 1970, by the database's clock.
    pub(crate) at: i64,
}

/// What is known of a session when one of its tokens is presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The live generation.
    pub(crate) generation: u32,
    /// The latest replacements, oldest first.
    pub(crate) recent: Vec<Turn>,
    /// The end, whatever happens.
    pub(crate) expires_at: Micros,
    /// The end if it is not used before.
    pub(crate) idle_until: Micros,
    /// Whether it was ended.
    pub(crate) revoked: bool,
}

/// What presenting a token means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The next generation is made, and this is remembered.
    Rotate(Vec<Turn>),
    /// The live generation is given again; nothing changes.
    Again,
    /// A copy is about: the session ends.
    Reused,
    /// The session is over, or the token is of no generation yet.
    Over,
}

impl State {
    /// Judges the presentation of `generation`. It reached us at `presented`; what has passed from then until `now` is time that we took, and
    /// does not count against who presented it.
    pub(crate) fn judge(&self, generation: u32, presented: Micros, now: Micros) -> Verdict {
        if self.revoked || now >= self.expires_at || now >= self.idle_until || generation > self.generation {
            return Verdict::Over;
        }
        // A clock that was set back must not make a replacement look older or younger than those before it.
        let now = self.recent.last().map_or(now.0, |turn| turn.at.max(now.0));
        let presented = presented.0.min(now);
        let within = |turn: &Turn| presented <= turn.at.saturating_add(WINDOW);
        if generation == self.generation {
            let recent = self.recent.iter().copied();
            let mut recent: Vec<Turn> = recent
                .filter(|turn| now <= turn.at.saturating_add(WINDOW))
                .collect();
            recent.push(Turn { generation, at: now });
            return Verdict::Rotate(recent.split_off(recent.len().saturating_sub(MOST_RECENT)));
        }
        if self
            .recent
            .iter()
            .any(|turn| turn.generation == generation && within(turn))
        {
            Verdict::Again
        } else {
            Verdict::Reused
        }
    }
}

#[cfg(test)]
mod model;
