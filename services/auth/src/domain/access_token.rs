//! Access tokens: JWT with HMAC-SHA-256 of exactly one shape, made and read by auth alone.
//!
//! Header `{"typ":"at+jwt","alg":"HS256","kid":…}` and nothing else; the key is the one that `kid` names, and there is no other to fall
//! back to. What is not canonical base64url, not the shape, or larger than 4 KiB is refused before any MAC is computed.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto, encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use types::{Region, Secret, SessionId, UserId};
use uuid::Uuid;

const TYPE: &str = "at+jwt";
const ALGORITHM: &str = "HS256";
/// Who makes them.
const ISSUER: &str = "trailmesh/auth";
const LENGTH_MOST: usize = 4_096;
/// A `kid` is a short word: no path, no quote.
const KID_MOST: usize = 64;
/// Seconds that two replicas' clocks may differ.
const SKEW: i64 = 30;
/// Seconds. No access token of ours lives longer.
const LIFE_MOST: i64 = 60 * 60;
/// RFC 7518 §3.2: a key no shorter than the hash.
const KEY_LEN: usize = 32;

/// A key for HMAC-SHA-256, of at least 256 bits.
#[derive(Clone)]
pub(crate) struct MacKey(Secret<Vec<u8>>);

impl MacKey {
    /// None for a key that is too short.
    pub(crate) fn new(bytes: Secret<Vec<u8>>) -> Option<Self> {
        (bytes.expose().len() >= KEY_LEN).then_some(Self(bytes))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    sid: String,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    /// Where it was made, for whoever gets it elsewhere. Tokens of before do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rgn: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    typ: String,
    alg: String,
    kid: String,
}

/// What a token says, once it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Who.
    pub(crate) user: UserId,
    /// By which session.
    pub(crate) session: SessionId,
}

/// Why a token is refused; to the outside it is all one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Too long, not three parts of canonical base64url.
    #[error("not a compact JWS")]
    Form,
    /// Another header than ours.
    #[error("not the header of an access token")]
    Header,
    /// The MAC is not that of the key.
    #[error("the MAC does not hold")]
    Mac,
    /// Another payload than ours.
    #[error("not the claims of an access token")]
    Claims,
    /// Not yet, or no longer.
    #[error("outside its time")]
    Time,
}

/// Makes a token for `session`, whose access ends at `exp`. Times are seconds since 1970.
pub(crate) fn issue(
    kid: &str,
    key: &MacKey,
    audience: &str,
    region: Region,
    who: Access,
    iat: i64,
    exp: i64,
) -> Option<Secret<String>> {
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(kid.to_owned());
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: audience.to_owned(),
        sub: who.user.to_string(),
        sid: who.session.to_string(),
        jti: Uuid::new_v4().simple().to_string(),
        iat,
        nbf: iat,
        exp,
        rgn: Some(region.word().to_owned()),
    };
    encode(&header, &claims, &EncodingKey::from_secret(key.0.expose()))
        .ok()
        .map(Secret::new)
}

/// A token whose form and header are right; its MAC is not looked at yet.
pub(crate) struct Presented<'a> {
    compact: Compact<'a>,
    kid: String,
}

impl<'a> Presented<'a> {
    /// Refuses whatever is not of our shape.
    pub(crate) fn parse(token: &'a str) -> Result<Self, Refusal> {
        let compact = Compact::parse(token)?;
        let head: Head = object(&compact.header).ok_or(Refusal::Header)?;
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let named = (1..=KID_MOST).contains(&head.kid.len()) && head.kid.bytes().all(word);
        if head.typ != TYPE || head.alg != ALGORITHM || !named {
            return Err(Refusal::Header);
        }
        Ok(Self {
            compact,
            kid: head.kid,
        })
    }

    /// The key it asks for.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// Believes it at `now`, seconds since 1970, if `key` made it for `audience` in `region`.
    pub(crate) fn verify(
        &self,
        key: &MacKey,
        audience: &str,
        region: Region,
        now: i64,
    ) -> Result<Access, Refusal> {
        if !self.compact.mac_holds(key) {
            return Err(Refusal::Mac);
        }
        let claims: Claims = object(&self.compact.payload).ok_or(Refusal::Claims)?;
        if claims.iss != ISSUER || claims.aud != audience || claims.jti.is_empty() {
            return Err(Refusal::Claims);
        }
        if claims.rgn.is_some_and(|claimed| claimed != region.word()) {
            return Err(Refusal::Claims);
        }
        let life = claims.exp.checked_sub(claims.iat).ok_or(Refusal::Claims)?;
        if !(1..=LIFE_MOST).contains(&life) {
            return Err(Refusal::Claims);
        }
        let begun = claims.iat.max(claims.nbf) <= now.saturating_add(SKEW);
        if !begun || now.saturating_sub(SKEW) >= claims.exp {
            return Err(Refusal::Time);
        }
        let user = claims.sub.parse().map_err(|_| Refusal::Claims)?;
        let session = claims.sid.parse().map_err(|_| Refusal::Claims)?;
        Ok(Access { user, session })
    }
}

/// A JSON object with exactly the fields of `T`; serde would take an array of their values too.
fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    json.starts_with(b"{")
        .then(|| serde_json::from_slice(json).ok())
        .flatten()
}

/// The three parts of a compact JWS (RFC 7515 §7.1).
struct Compact<'a> {
    header: Vec<u8>,
    payload: Vec<u8>,
    signed: &'a str,
    mac: &'a str,
}

impl<'a> Compact<'a> {
    fn parse(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > LENGTH_MOST {
            return Err(Refusal::Form);
        }
        let (signed, mac) = token.rsplit_once('.').ok_or(Refusal::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Form)?;
        // The engine takes neither padding nor unused bits that are set: each value has one spelling.
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .ok()
                .filter(|bytes| !bytes.is_empty())
        };
        decode(mac).ok_or(Refusal::Form)?;
        Ok(Self {
            header: decode(header).ok_or(Refusal::Form)?,
            payload: decode(payload).ok_or(Refusal::Form)?,
            signed,
            mac,
        })
    }

    /// In constant time.
    fn mac_holds(&self, key: &MacKey) -> bool {
        let key = DecodingKey::from_secret(key.0.expose());
        crypto::verify(self.mac, self.signed.as_bytes(), &key, Algorithm::HS256).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use ring::hmac;
    use serde_json::{Value, json};
    use types::{Region, Secret, SessionId, UserId};

    use super::{Access, Compact, LENGTH_MOST, MacKey, Presented, Refusal, issue};

    const NOW: i64 = 1_790_000_000;
    const KEY: [u8; 32] = [7; 32];

    fn key() -> MacKey {
        MacKey::new(Secret::new(KEY.to_vec())).unwrap()
    }

    fn who() -> Access {
        Access {
            user: UserId::fresh(),
            session: SessionId::fresh(),
        }
    }

    fn signed(header: &str, claims: &str) -> String {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &KEY), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn read(token: &str) -> Result<Access, Refusal> {
        Presented::parse(token)?.verify(&key(), "api", Region::Us, NOW)
    }

    fn claims() -> Value {
        let Access { user, session } = who();
        json!({"iss": "trailmesh/auth", "aud": "api", "sub": user.to_string(), "sid": session.to_string(),
               "jti": "1", "iat": NOW, "nbf": NOW, "exp": NOW + 900})
    }

    const HEADER: &str = r#"{"typ":"at+jwt","alg":"HS256","kid":"k1"}"#;

    #[test]
    fn a_token_is_read_back_and_has_exactly_our_header_and_claims() {
        let who = who();
        let token = issue("k1", &key(), "api", Region::Us, who, NOW, NOW + 900).unwrap();
        let presented = Presented::parse(token.expose()).unwrap();
        assert_eq!(presented.kid(), "k1");
        assert_eq!(presented.verify(&key(), "api", Region::Us, NOW), Ok(who));
        let part = |n: usize| {
            URL_SAFE_NO_PAD
                .decode(token.expose().split('.').nth(n).unwrap())
                .unwrap()
        };
        let header: Value = serde_json::from_slice(&part(0)).unwrap();
        assert_eq!(header, json!({"typ": "at+jwt", "alg": "HS256", "kid": "k1"}));
        let claims: Value = serde_json::from_slice(&part(1)).unwrap();
        let names: Vec<&str> = claims.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["aud", "exp", "iat", "iss", "jti", "nbf", "rgn", "sid", "sub"]
        );
    }

    #[test]
    fn another_key_another_audience_and_another_time_are_refused() {
        let token = issue("k1", &key(), "api", Region::Us, who(), NOW, NOW + 900).unwrap();
        let presented = Presented::parse(token.expose()).unwrap();
        let other = MacKey::new(Secret::new(vec![8; 32])).unwrap();
        assert_eq!(
            presented.verify(&other, "api", Region::Us, NOW),
            Err(Refusal::Mac)
        );
        let elsewhere = presented.verify(&key(), "api", Region::Eu, NOW);
        assert_eq!(elsewhere, Err(Refusal::Claims));
        assert_eq!(
            presented.verify(&key(), "api2", Region::Us, NOW),
            Err(Refusal::Claims)
        );
        for (now, good) in [
            (-31, false),
            (-30, true),
            (0, true),
            (929, true),
            (930, false),
            (99_999, false),
        ] {
            assert_eq!(
                presented.verify(&key(), "api", Region::Us, NOW + now).is_ok(),
                good,
                "{now}"
            );
        }
    }

    #[test]
    fn a_header_that_is_not_exactly_ours_is_refused() {
        let good = claims().to_string();
        assert!(read(&signed(HEADER, &good)).is_ok());
        for header in [
            r#"{"typ":"at+jwt","alg":"none","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"None","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"HS512","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"RS256","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"EdDSA","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"hs256","kid":"k1"}"#,
            r#"{"typ":"JWT","alg":"HS256","kid":"k1"}"#,
            r#"{"typ":"ctx+jwt","alg":"HS256","kid":"k1"}"#,
            r#"{"alg":"HS256","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"HS256"}"#,
            r#"{"typ":"at+jwt","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":""}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":null}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":["k1"]}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"../../dev/null"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1' OR '1'='1"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1\u0000"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","alg":"none","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"none","alg":"HS256","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k0","kid":"k1"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","jku":"https://x"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","x5u":"https://x"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","jwk":{"kty":"oct","k":"BwcH"}}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","x5c":["AA"]}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","crit":["exp"]}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","b64":false}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","zip":"DEF"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1","cty":"JWT"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"k1"} "{}""#,
            r#"["at+jwt","HS256","k1"]"#,
            "",
            "null",
        ] {
            let refused = Presented::parse(&signed(header, &good))
                .map(|presented| presented.kid)
                .unwrap_err();
            assert!(matches!(refused, Refusal::Header | Refusal::Form), "{header}");
        }
    }

    #[test]
    fn claims_that_are_not_exactly_ours_are_refused() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            claims.to_string()
        };
        let without = |name: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            claims.to_string()
        };
        for name in ["iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp"] {
            assert_eq!(
                read(&signed(HEADER, &without(name))),
                Err(Refusal::Claims),
                "without {name}"
            );
            assert_eq!(
                read(&signed(HEADER, &with(name, Value::Null))),
                Err(Refusal::Claims),
                "{name} null"
            );
        }
        let Access { user, session } = who();
        let in_order = json!([
            "trailmesh/auth",
            "api",
            user.to_string(),
            session.to_string(),
            "1",
            NOW,
            NOW,
            NOW + 900
        ])
        .to_string();
        let twice = claims().to_string().replacen('{', r#"{"sub":"usr_0","#, 1);
        for text in [
            with("aud", json!(["api"])),
            with("aud", json!(["api", "other"])),
            with("aud", json!("API")),
            with("iss", json!("trailmesh/auth/")),
            with("sub", json!("usr_1")),
            with("sid", json!("key_00000000000000000000000000")),
            with("jti", json!("")),
            with("exp", json!(1e300)),
            with("exp", json!("1790000900")),
            with("exp", json!(NOW + 3_601)),
            with("exp", json!(NOW)),
            with("iat", json!(i64::MIN)),
            with("role", json!("owner")),
            with("rgn", json!("eu")),
            with("rgn", json!("")),
            with("rgn", json!(["us"])),
            twice,
            "[]".to_owned(),
            "{}".to_owned(),
            in_order,
        ] {
            assert_eq!(read(&signed(HEADER, &text)), Err(Refusal::Claims), "{text}");
        }
        assert_eq!(
            read(&signed(HEADER, &with("nbf", json!(NOW + 31)))),
            Err(Refusal::Time)
        );
    }

    #[test]
    fn another_spelling_of_the_same_bytes_is_refused() {
        let token = signed(HEADER, &claims().to_string());
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, mac] = parts[..] else {
            unreachable!()
        };
        // A MAC of 32 bytes leaves two unused bits in its last character.
        let last = mac.chars().last().unwrap();
        let next = char::from_u32(last as u32 + 1).unwrap();
        let unused = format!("{header}.{payload}.{}{next}", &mac[..mac.len() - 1]);
        for bad in [
            unused,
            format!("{token}="),
            format!("{header}=.{payload}.{mac}"),
            format!(" {token}"),
            format!("{token}\n"),
            token.replace('.', ".."),
            format!("{token}."),
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!(".{payload}.{mac}"),
            format!("{header}..{mac}"),
            format!("{header}.{payload}.{mac}.{mac}"),
            format!(
                "{header}.{payload}.{}",
                mac.replace('-', "+").replace('_', "/") + "+"
            ),
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
        let long = signed(HEADER, &format!("{}{}", claims(), " ".repeat(LENGTH_MOST)));
        assert_eq!(read(&long), Err(Refusal::Form));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let token = signed(HEADER, &claims().to_string());
        for place in 0..token.len() {
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[place] ^= 1 << bit;
                let changed = String::from_utf8(bytes).unwrap();
                assert!(read(&changed).is_err(), "{place}.{bit}");
            }
        }
    }

    /// As a verifier that knows only `jwk` would: our form, our algorithm, our minimum of key bits; not our header's exact fields.
    fn accepted(jws: &str, jwk: &Value) -> bool {
        let key = jwk["k"].as_str().and_then(|k| URL_SAFE_NO_PAD.decode(k).ok());
        let key = key.filter(|_| jwk["kty"] == "oct" && jwk["alg"] == "HS256" && jwk["use"] == "sig");
        let Some(key) = key.and_then(|bytes| MacKey::new(Secret::new(bytes))) else {
            return false;
        };
        let Ok(compact) = Compact::parse(jws) else {
            return false;
        };
        let Ok(header) = serde_json::from_slice::<Value>(&compact.header) else {
            return false;
        };
        header["alg"] == "HS256" && header["kid"] == jwk["kid"] && compact.mac_holds(&key)
    }

    /// Vectors that no verifier can satisfy: 367 and 370 are the very string of 357, which is valid.
    const SELF_CONTRADICTORY: [(&str, u64); 2] = [("json_web_signature", 367), ("json_web_signature", 370)];
    /// Marked valid although they hold a `?`, which is no character of base64url: we refuse them.
    const TOO_LAX: [(&str, u64); 2] = [("json_web_signature", 372), ("json_web_signature", 373)];

    #[test]
    fn the_wycheproof_vectors_are_judged_as_they_say() {
        let mut refused = 0;
        let mut taken = 0;
        let mut other_algorithms = 0;
        for file in ["json_web_signature", "json_web_key", "json_web_crypto"] {
            let Some(path) = testkit::data(&format!("wycheproof/{file}_test.json")) else {
                return;
            };
            let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            for group in vectors["testGroups"].as_array().unwrap() {
                let private = &group["private"];
                // A key set of one symmetric kind is our ring; sets that mix kinds or repeat a kid cannot be in it.
                let keys = private["keys"]
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![private.clone()]);
                let kids: std::collections::BTreeSet<String> =
                    keys.iter().map(|key| key["kid"].to_string()).collect();
                let ring = keys.iter().all(|key| key["kty"] == keys[0]["kty"]) && kids.len() == keys.len();
                for test in group["tests"].as_array().unwrap() {
                    let id = (file, test["tcId"].as_u64().unwrap());
                    let Some(jws) = test["jws"].as_str().or_else(|| test["jwe"].as_str()) else {
                        // JSON serialization: not compact, so not ours.
                        refused += 1;
                        continue;
                    };
                    let accepted = ring && keys.iter().any(|key| accepted(jws, key));
                    assert!(Presented::parse(jws).is_err(), "{id:?}: no vector has our typ");
                    if SELF_CONTRADICTORY.contains(&id) || TOO_LAX.contains(&id) {
                        continue;
                    }
                    if test["result"] == "invalid" {
                        assert!(!accepted, "{id:?} {}", test["comment"]);
                        refused += 1;
                    } else if keys[0]["alg"] == "HS256" {
                        assert!(accepted, "{id:?} {}", test["comment"]);
                        taken += 1;
                    } else {
                        assert!(!accepted);
                        other_algorithms += 1;
                    }
                }
            }
        }
        println!(
            "{refused} invalid refused, {taken} valid HS256 accepted, {other_algorithms} valid of other algorithms refused"
        );
        assert_eq!((refused, taken, other_algorithms), (451, 12, 43));
    }
}
