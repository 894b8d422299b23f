//! Whose data is elsewhere is told where, before a byte of a body is read.
//!
//! An access token says which region made it, and so does an API key with its first letter. Neither is believed for it: what they say only
//! leads a client to another door, where it must be let in like anyone.
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::auth::v1::authenticate_request::Credential;
use serde::Deserialize;
use tonic::{Code, Status};
use types::Region;

use super::Gateway;
use crate::error::{Cause, Layer, Refusal};

/// What every API key begins with.
pub(crate) const KEY_PREFIX: &str = "bt_live_";

/// What a token says of its region.
#[derive(Deserialize)]
struct Claims {
    rgn: Option<String>,
}

/// Refuses a token of another region. What names none goes on.
pub(crate) fn check(gateway: &Gateway, credential: &Credential) -> Result<(), Refusal> {
    match credential {
        Credential::AccessToken(token) => match claimed(token).filter(|region| *region != gateway.region) {
            Some(region) => Err(elsewhere(gateway, region)),
            None => Ok(()),
        },
        // The letter alone says nothing: keys of before have any.
        Credential::ApiKey(_) => Ok(()),
    }
}

/// Where an API key that is not known here may be known.
pub(crate) fn of_unknown(gateway: &Gateway, credential: &Credential, status: &Status) -> Option<Refusal> {
    let Credential::ApiKey(key) = credential else {
        return None;
    };
    let region = letter(key).filter(|region| *region != gateway.region)?;
    (status.code() == Code::Unauthenticated).then(|| elsewhere(gateway, region))
}

fn elsewhere(gateway: &Gateway, region: Region) -> Refusal {
    let host = gateway.hosts.iter().find(|(of, _)| *of == region);
    let cause = Cause::WrongRegion {
        region: region.word(),
        host: host.map(|(_, host)| host.clone()),
    };
    Refusal::new(Layer::Authenticate, cause)
}

fn claimed(token: &str) -> Option<Region> {
    let payload = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.rgn?.parse().ok()
}

/// The region whose word begins with the key's first letter.
fn letter(key: &str) -> Option<Region> {
    let first = key.strip_prefix(KEY_PREFIX)?.get(..1)?;
    let all = Region::ALL.iter().copied();
    all.into_iter().find(|region| region.word().starts_with(first))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use types::Region;

    use super::{claimed, letter};

    #[test]
    fn a_token_and_a_key_say_where_they_were_made() {
        let token = |claims: &str| format!("a.{}.c", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(claimed(&token(r#"{"rgn":"eu","sub":"usr_x"}"#)), Some(Region::Eu));
        for nothing in [r#"{"sub":"x"}"#, r#"{"rgn":"mars"}"#, r#"{"rgn":7}"#, "[]", "{"] {
            assert_eq!(claimed(&token(nothing)), None, "{nothing}");
        }
        assert_eq!(claimed("a.b.c"), None);
        assert_eq!(letter("bt_live_uXYZ"), Some(Region::Us));
        assert_eq!(letter("bt_live_eXYZ"), Some(Region::Eu));
        assert_eq!(letter("bt_live_UXYZ"), None);
        assert_eq!(letter("bt_live_"), None);
    }
}
