//! Context and grant tokens and delegations: written by auth, verified by everybody, both in one place so that one is the other's inverse.
//!
//! A token is a compact JWS (RFC 7515) signed with Ed25519 (RFC 8037). Its header has `alg`, `typ` and `kid` and nothing else, so none of the
//! headers that name keys (`jwk`, `jku`, `x5c`, `x5u`) or change the meaning of the rest (`crit`, `b64`, `zip`) gets in; base64url is canonical;
//! no JSON key stands twice; the whole is at most 12 KiB (RFC 8725).

mod delegation;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::{Notify, watch};
use types::{Code, Context, Fault, Grant, Plan, PoolId, Region, Role, Seat, SessionId, Subject};

pub use delegation::{Actor, delegation_ends};

/// How long a token lives.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// How far two clocks may differ, in seconds.
const SKEW: i64 = 30;

/// The longest token that is signed or looked at: the largest seat there can be, with a role in each of a tenant's 100 pools and an API key's
/// 64 scopes, takes 10 KiB. The mesh's servers and clients take 32 KiB of headers.
const LONGEST: usize = 12 << 10;

const ISSUER: &str = "trailmesh/auth";
const CONTEXT: &str = "ctx+jwt";
const GRANT: &str = "grant+jwt";

/// Why a token is not accepted. A stranger learns no more than that; [`Error::cause`] is for the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a context token that is valid here and now.
    #[error("the context token is not valid")]
    Context(&'static str),
    /// Not a grant for this call, this caller and now.
    #[error("the proof of the second factor is not valid for this call")]
    Grant(&'static str),
    /// Not a delegation for this agent, this tenant, this method and now.
    #[error("the delegation is not valid for this call")]
    Delegation(&'static str),
    /// The key to sign with cannot be used.
    #[error("the signing key cannot be used")]
    Key,
    /// Nobody would look at what would be signed.
    #[error("a token of {0} bytes is longer than any that is looked at")]
    TooLong(usize),
}

impl Error {
    /// What is wrong with it.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Context(cause) | Self::Grant(cause) | Self::Delegation(cause) => cause,
            Self::Key => "key",
            Self::TooLong(_) => "length",
        }
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Context(_) | Self::Delegation(_) => Code::Unauthenticated,
            Self::Grant(_) => Code::Forbidden,
            Self::Key | Self::TooLong(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Context(_) => "CONTEXT_INVALID",
            Self::Grant(_) => "GRANT_INVALID",
            Self::Delegation(_) => "DELEGATION_INVALID",
            Self::Key => "SIGNING_KEY_INVALID",
            Self::TooLong(_) => "TOKEN_TOO_LONG",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// What every token says.
trait Claims: DeserializeOwned {
    const TYP: &'static str;
    fn times(&self) -> Times<'_>;
}

struct Times<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextClaims {
    iss: String,
    aud: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    mfa: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seat: Option<SeatClaim>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeatClaim {
    tenant: String,
    region: String,
    plan: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(deserialize_with = "each_once")]
    pools: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantClaims {
    iss: String,
    aud: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    method: String,
    sha256: String,
}

macro_rules! times {
    ($claims:ty, $typ:expr) => {
        impl Claims for $claims {
            const TYP: &'static str = $typ;
            fn times(&self) -> Times<'_> {
                Times {
                    iss: &self.iss,
                    aud: &self.aud,
                    iat: self.iat,
                    nbf: self.nbf,
                    exp: self.exp,
                }
            }
        }
    };
}

times!(ContextClaims, CONTEXT);
times!(GrantClaims, GRANT);

/// A map in which a key that stands twice is an error; serde's own keeps the last.
fn each_once<'de, D: serde::Deserializer<'de>>(source: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Once;
    impl<'de> serde::de::Visitor<'de> for Once {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object whose keys stand once")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = source.next_entry()? {
                if map.insert(key, value).is_some() {
                    return Err(serde::de::Error::custom("a key stands twice"));
                }
            }
            Ok(map)
        }
    }
    source.deserialize_map(Once)
}

fn audience(region: Region) -> String {
    format!("trailmesh/{}", region.word())
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Who asked, as both tokens name them: `sub`, `sid`, `key`.
fn names(subject: &Subject) -> (String, Option<String>, Option<String>) {
    match subject {
        Subject::Person { user, session } => (user.to_string(), Some(session.to_string()), None),
        Subject::Key { key, owner } => (owner.to_string(), None, Some(key.to_string())),
    }
}

/// Signs tokens. Only auth has one.
pub struct Signer {
    kid: String,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.kid)
    }
}

impl Signer {
    /// From an Ed25519 seed of 32 bytes.
    pub fn new(kid: String, seed: &[u8]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Error::Key)?;
        Ok(Self { kid, pair })
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        let mut ed25519 = [0; 32];
        ed25519.copy_from_slice(self.pair.public_key().as_ref());
        VerifyingKey {
            kid: self.kid.clone(),
            ed25519,
        }
    }

    /// A context token for the services of `region` that lives [`LIFETIME`] from `now` (seconds since 1970). Roles in single pools that add
    /// nothing to the role in the whole tenant are left out.
    pub fn context(&self, context: &Context, region: Region, now: i64) -> Result<String, Error> {
        let (sub, sid, key) = names(&context.subject);
        let seat = context.seat.as_ref().map(|seat| SeatClaim {
            tenant: seat.tenant.to_string(),
            region: seat.region.word().to_owned(),
            plan: seat.plan.word().to_owned(),
            role: seat.role.map(|role| role.word().to_owned()),
            pools: seat
                .pools
                .iter()
                .filter(|(_, role)| Some(**role) > seat.role)
                .map(|(pool, role)| (pool.to_string(), role.word().to_owned()))
                .collect(),
            scopes: seat.scopes.clone(),
        });
        self.sign(
            CONTEXT,
            &ContextClaims {
                iss: ISSUER.into(),
                aud: audience(region),
                iat: now,
                nbf: now,
                exp: end(now),
                jti: random_name()?,
                sub,
                sid,
                key,
                mfa: context.mfa_enabled,
                seat,
            },
        )
    }

    /// A grant for one call of `path` with a request message that hashes to `sha256`, by the subject of `context` in its tenant.
    pub fn grant(
        &self,
        context: &Context,
        region: Region,
        path: &str,
        sha256: &[u8; 32],
        now: i64,
    ) -> Result<String, Error> {
        let (sub, sid, key) = names(&context.subject);
        self.sign(
            GRANT,
            &GrantClaims {
                iss: ISSUER.into(),
                aud: audience(region),
                iat: now,
                nbf: now,
                exp: end(now),
                jti: random_name()?,
                sub,
                sid,
                key,
                tenant: context.seat.as_ref().map(|seat| seat.tenant.to_string()),
                method: path.to_owned(),
                sha256: URL_SAFE_NO_PAD.encode(sha256),
            },
        )
    }

    fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, Error> {
        let header = Header {
            alg: "EdDSA".into(),
            typ: typ.into(),
            kid: self.kid.clone(),
        };
        let encode = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
        let header = serde_json::to_vec(&header).map(encode).map_err(|_| Error::Key)?;
        let claims = serde_json::to_vec(claims).map(encode).map_err(|_| Error::Key)?;
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        let token = format!("{signed}.{signature}");
        if token.len() > LONGEST {
            return Err(Error::TooLong(token.len()));
        }
        Ok(token)
    }
}

fn end(now: i64) -> i64 {
    now.saturating_add_unsigned(LIFETIME.as_secs())
}

fn random_name() -> Result<String, Error> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Key)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The public half of a signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    /// Its name in a token's header.
    pub kid: String,
    /// Ed25519.
    pub ed25519: [u8; 32],
}

/// The keys that count now, in one region. Clones share them.
#[derive(Clone, Debug)]
pub struct KeySet {
    region: Region,
    audience: Arc<str>,
    keys: Arc<watch::Sender<Vec<VerifyingKey>>>,
    wanted: Arc<Notify>,
}

impl KeySet {
    /// Without keys: nothing verifies.
    pub fn new(region: Region) -> Self {
        Self {
            region,
            audience: audience(region).into(),
            keys: Arc::new(watch::Sender::new(Vec::new())),
            wanted: Arc::new(Notify::new()),
        }
    }

    /// From now on these keys count, and no others.
    pub fn replace(&self, keys: Vec<VerifyingKey>) {
        self.keys.send_replace(keys);
    }

    /// The keys that count now.
    pub fn list(&self) -> Vec<VerifyingKey> {
        self.keys.borrow().clone()
    }

    /// Whether there are keys.
    pub fn is_empty(&self) -> bool {
        self.keys.borrow().is_empty()
    }

    /// Returns when a token named a key that is not here: whoever fills the set may ask for keys then, but not more often for it than it can
    /// bear, since anybody can write tokens.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// What a context token says, and when it ends (seconds since 1970).
    pub fn context(&self, token: &str) -> Result<(Context, i64), Error> {
        self.context_at(token, now())
    }

    /// As [`Self::context`], at another time.
    pub fn context_at(&self, token: &str, now: i64) -> Result<(Context, i64), Error> {
        let claims: ContextClaims = self.verify(token, now).map_err(Error::Context)?;
        let ends = claims.exp;
        let context = context(claims).ok_or(Error::Context("claims"))?;
        Ok((context, ends))
    }

    /// The grant in `token`, if it is for `path` with a request that hashes to `sha256`, by this very subject in this very tenant.
    pub fn grant(
        &self,
        token: &str,
        path: &str,
        sha256: &[u8; 32],
        context: &Context,
    ) -> Result<Grant, Error> {
        self.grant_at(token, path, sha256, context, now())
    }

    /// As [`Self::grant`], at another time.
    pub fn grant_at(
        &self,
        token: &str,
        path: &str,
        sha256: &[u8; 32],
        context: &Context,
        now: i64,
    ) -> Result<Grant, Error> {
        let claims: GrantClaims = self.verify(token, now).map_err(Error::Grant)?;
        if claims.method != path {
            return Err(Error::Grant("method"));
        }
        if claims.sha256 != URL_SAFE_NO_PAD.encode(sha256) {
            return Err(Error::Grant("request"));
        }
        if (claims.sub, claims.sid, claims.key) != names(&context.subject) {
            return Err(Error::Grant("subject"));
        }
        if claims.tenant != context.seat.as_ref().map(|seat| seat.tenant.to_string()) {
            return Err(Error::Grant("tenant"));
        }
        if claims.jti.is_empty() {
            return Err(Error::Grant("claims"));
        }
        Ok(Grant {
            id: claims.jti,
            expires: claims.exp,
        })
    }

    fn verify<C: Claims>(&self, token: &str, now: i64) -> Result<C, &'static str> {
        self.verify_for(token, &self.audience, now)
    }

    fn verify_for<C: Claims>(&self, token: &str, audience: &str, now: i64) -> Result<C, &'static str> {
        if token.len() > LONGEST {
            return Err("length");
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("form");
        };
        let parsed: Header = decode(header).ok_or("header")?;
        if parsed.alg != "EdDSA" {
            return Err("alg");
        }
        if parsed.typ != C::TYP {
            return Err("typ");
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "signature")?;
        let signed = &token[..header.len() + 1 + claims.len()];
        self.check(&parsed.kid, signed.as_bytes(), &signature)?;
        let claims: C = decode(claims).ok_or("claims")?;
        let times = claims.times();
        if times.iss != ISSUER {
            return Err("iss");
        }
        if times.aud != audience {
            return Err("aud");
        }
        let soon = now.saturating_add(SKEW);
        if times.iat > soon || times.nbf > soon {
            return Err("early");
        }
        if times.exp <= now.saturating_sub(SKEW) {
            return Err("expired");
        }
        if times.exp > end(times.iat) {
            return Err("lifetime");
        }
        Ok(claims)
    }

    fn check(&self, kid: &str, signed: &[u8], signature: &[u8]) -> Result<(), &'static str> {
        let keys = self.keys.borrow();
        let Some(key) = keys.iter().find(|key| key.kid == kid) else {
            self.wanted.notify_one();
            return Err("kid");
        };
        UnparsedPublicKey::new(&ED25519, key.ed25519)
            .verify(signed, signature)
            .map_err(|_| "signature")
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    // Serde would take the values in an array, too.
    if bytes.first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(&bytes).ok()
}

/// The inverse of [`names`].
fn subject(sub: &str, sid: Option<&str>, key: Option<&str>) -> Option<Subject> {
    let user = sub.parse().ok()?;
    Some(match (sid, key) {
        (Some(sid), None) => Subject::Person {
            user,
            session: sid.parse::<SessionId>().ok()?,
        },
        (None, Some(key)) => Subject::Key {
            key: key.parse().ok()?,
            owner: user,
        },
        _ => return None,
    })
}

fn context(claims: ContextClaims) -> Option<Context> {
    let subject = subject(&claims.sub, claims.sid.as_deref(), claims.key.as_deref())?;
    let seat = match claims.seat {
        None => None,
        Some(claim) => Some(seat(claim)?),
    };
    Some(Context {
        subject,
        seat,
        mfa_enabled: claims.mfa,
    })
}

fn seat(claim: SeatClaim) -> Option<Seat> {
    let role = match claim.role {
        None => None,
        Some(word) => Some(word.parse::<Role>().ok()?),
    };
    let pools = claim
        .pools
        .iter()
        .map(|(pool, role)| Some((pool.parse::<PoolId>().ok()?, role.parse::<Role>().ok()?)));
    Some(Seat {
        tenant: claim.tenant.parse().ok()?,
        region: claim.region.parse::<Region>().ok()?,
        plan: claim.plan.parse::<Plan>().ok()?,
        role,
        pools: pools.collect::<Option<_>>()?,
        scopes: claim.scopes,
    })
}
