//! Passwords: which are taken, and how they are kept.
//!
//! A password is its bytes as they were sent: nothing is trimmed, normalised or cut. The list of common ones is made from the 30,000 most
//! common passwords of zxcvbn 4.5.0 (PyPI, MIT licence, © Daniel Wolf and Dropbox): those of 8 characters and more, in lower case, sorted.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::{Ident, Output, ParamsString, PasswordHash, Salt, SaltString},
};
use types::Secret;

use super::email::Email;

/// NIST SP 800-63B, 5.1.1.2 asks for at least this many characters.
const SHORTEST: usize = 8;

/// Long enough for any passphrase; bounds the work of one request.
const LONGEST: usize = 256;

/// What must be left of a password when the parts of the address in it are taken away.
const LEAST_BESIDE_ADDRESS: usize = 5;

/// Sorted.
const COMMON: &str = include_str!("common-passwords.txt");

/// Why a password is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weakness {
    TooShort,
    TooLong,
    Common,
    LikeAddress,
}

/// A password that may be set.
#[derive(Clone, Debug)]
pub(crate) struct NewPassword(Secret<String>);

impl NewPassword {
    /// Takes a password for the account with this address, or says what is wrong with it.
    pub(crate) fn new(text: String, email: &Email) -> Result<Self, Weakness> {
        let text = Secret::new(text);
        let length = text.expose().chars().count();
        if length < SHORTEST {
            return Err(Weakness::TooShort);
        }
        if length > LONGEST {
            return Err(Weakness::TooLong);
        }
        let lower = text.expose().to_lowercase();
        if is_common(&lower) {
            return Err(Weakness::Common);
        }
        if is_like(&lower, email) {
            return Err(Weakness::LikeAddress);
        }
        Ok(Self(text))
    }

    /// The password itself.
    pub(crate) fn into_secret(self) -> Secret<String> {
        self.0
    }
}

/// Whether a text could be anybody's password: longer ones are wrong without a look.
pub(crate) fn is_plausible(text: &str) -> bool {
    text.chars().count() <= LONGEST
}

fn is_common(lower: &str) -> bool {
    // A line of the list by bisection over bytes: no index has to be built.
    let (mut low, mut high) = (0, COMMON.len());
    while low < high {
        let middle = (low + high) / 2;
        let start = COMMON.as_bytes()[..middle]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        let end = COMMON.as_bytes()[start..]
            .iter()
            .position(|b| *b == b'\n')
            .map_or(COMMON.len(), |at| start + at);
        match COMMON.as_bytes()[start..end].cmp(lower.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    false
}

fn is_like(lower: &str, email: &Email) -> bool {
    let labels = email.domain().split('.');
    let words = [email.key(), email.local_part(), email.domain()]
        .into_iter()
        .chain(labels);
    words
        .filter(|word| word.len() >= 4)
        .any(|word| lower.contains(word) && lower.replace(word, "").chars().count() < LEAST_BESIDE_ADDRESS)
}

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Memory in KiB.
    pub(crate) memory: u32,
    /// Passes over it.
    pub(crate) passes: u32,
    /// Lanes.
    pub(crate) lanes: u32,
}

impl Cost {
    /// The least that OWASP's Password Storage Cheat Sheet takes: 19 MiB and two passes, or 46 MiB and one.
    pub(crate) fn is_enough(self) -> bool {
        self.lanes >= 1
            && (self.memory >= 19_456 && self.passes >= 2 || self.memory >= 47_104 && self.passes >= 1)
    }

    /// The same for the `argon2` crate; none if it could not compute it.
    pub(crate) fn params(self) -> Option<Params> {
        Params::new(self.memory, self.passes, self.lanes, None).ok()
    }
}

/// A stored hash is not what it must be.
#[derive(Debug)]
pub(crate) struct Unreadable;

/// Argon2id in the PHC string format, computed in `memory`, which grows to what is needed and can be used again.
pub(crate) fn hash(password: &str, params: &Params, memory: &mut Vec<Block>) -> Result<String, Unreadable> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(|_| Unreadable)?;
    let mut bytes = [0; Params::DEFAULT_OUTPUT_LEN];
    derive(password, params, salt.as_salt(), memory, &mut bytes)?;
    let hash = PasswordHash {
        algorithm: Ident::new_unwrap("argon2id"),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(|_| Unreadable)?,
        salt: Some(salt.as_salt()),
        hash: Some(Output::new(&bytes).map_err(|_| Unreadable)?),
    };
    Ok(hash.to_string())
}

/// Whether `password` is the one of `phc`. Takes the same time for right and wrong ones.
pub(crate) fn check(password: &str, phc: &str, memory: &mut Vec<Block>) -> Result<bool, Unreadable> {
    let (hash, params) = read(phc)?;
    let (Some(salt), Some(wanted)) = (hash.salt, hash.hash) else {
        return Err(Unreadable);
    };
    let mut bytes = vec![0; wanted.len()];
    derive(password, &params, salt, memory, &mut bytes)?;
    // `Output` compares in constant time.
    Ok(Output::new(&bytes).map_err(|_| Unreadable)? == wanted)
}

/// Whether `phc` was made at another cost than `cost`.
pub(crate) fn is_outdated(phc: &str, cost: Cost) -> bool {
    read(phc).map_or(true, |(_, params)| {
        (params.m_cost(), params.t_cost(), params.p_cost()) != (cost.memory, cost.passes, cost.lanes)
    })
}

fn read(phc: &str) -> Result<(PasswordHash<'_>, Params), Unreadable> {
    let hash = PasswordHash::new(phc).map_err(|_| Unreadable)?;
    if hash.algorithm.as_str() != "argon2id" || hash.version != Some(Version::V0x13.into()) {
        return Err(Unreadable);
    }
    let params = Params::try_from(&hash).map_err(|_| Unreadable)?;
    Ok((hash, params))
}

fn derive(
    password: &str,
    params: &Params,
    salt: Salt<'_>,
    memory: &mut Vec<Block>,
    into: &mut [u8],
) -> Result<(), Unreadable> {
    let mut buffer = [0; Salt::MAX_LENGTH];
    let salt = salt.decode_b64(&mut buffer).map_err(|_| Unreadable)?;
    if memory.len() < params.block_count() {
        memory.resize(params.block_count(), Block::default());
    }
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into_with_memory(
            password.as_bytes(),
            salt,
            into,
            &mut memory[..params.block_count()],
        )
        .map_err(|_| Unreadable)
}

#[cfg(test)]
mod tests {
    use super::{COMMON, Cost, Email, NewPassword, Weakness, check, hash, is_common, is_outdated};

    const CHEAP: Cost = Cost {
        memory: 64,
        passes: 1,
        lanes: 1,
    };

    fn refused(text: &str) -> Option<Weakness> {
        let email: Email = "ada.lovelace@analytical.example".parse().unwrap();
        NewPassword::new(text.to_owned(), &email).err()
    }

    #[test]
    fn length_is_counted_in_characters_and_nothing_is_cut() {
        assert_eq!(refused("short-7"), Some(Weakness::TooShort));
        assert_eq!(refused("ünïcödé"), Some(Weakness::TooShort));
        assert_eq!(refused("ünïcödéß"), None);
        assert_eq!(refused(&"ä-".repeat(128)), None);
        assert_eq!(refused(&"ä".repeat(257)), Some(Weakness::TooLong));
        assert_eq!(refused(" correct horse "), None);
    }

    #[test]
    fn common_ones_and_those_like_the_address_are_refused() {
        for text in ["password", "PassWord1", "1234567890", "qwertyuiop", "trustno1"] {
            assert_eq!(refused(text), Some(Weakness::Common), "{text}");
        }
        for text in [
            "ada.lovelace",
            "Ada.Lovelace1!",
            "12analytical",
            "ada.lovelace@analytical.example",
            "analytical.example",
        ] {
            assert_eq!(refused(text), Some(Weakness::LikeAddress), "{text}");
        }
        assert_eq!(refused("ada.lovelace wrote notes"), None);
    }

    #[test]
    fn every_line_of_the_list_is_found_and_nothing_else() {
        let lines: Vec<&str> = COMMON.lines().collect();
        assert!(lines.len() > 10_000 && lines.is_sorted());
        assert!(lines.iter().all(|line| is_common(line)));
        assert!(!is_common("") && !is_common("\n") && !is_common("zzzzzzzzzzzzzzzzzzz") && !is_common("!"));
        let joined = format!("{}\n{}", lines[0], lines[1]);
        assert!(!is_common(&joined));
    }

    #[test]
    fn a_hash_checks_its_password_only_also_in_used_memory() {
        let mut memory = Vec::new();
        let phc = hash("pässwörd one", &CHEAP.params().unwrap(), &mut memory).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{phc}");
        let dearer = Cost {
            memory: 128,
            passes: 2,
            lanes: 1,
        };
        let other = hash("another", &dearer.params().unwrap(), &mut memory).unwrap();
        for mut memory in [Vec::new(), memory] {
            assert!(check("pässwörd one", &phc, &mut memory).unwrap());
            assert!(!check("pässwörd One", &phc, &mut memory).unwrap());
            assert!(!check("pässwörd one ", &phc, &mut memory).unwrap());
            assert!(check("another", &other, &mut memory).unwrap());
        }
        assert!(!is_outdated(&phc, CHEAP) && is_outdated(&other, CHEAP));
    }

    /// A hash that another implementation made: `echo -n password | argon2 somesalt -id -t 2 -m 8 -p 1` of the reference implementation
    /// (its `test.c`, version 0x13).
    #[test]
    fn a_hash_of_the_reference_implementation_is_read() {
        let phc = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(check("password", phc, &mut Vec::new()).unwrap());
        assert!(!check("Password", phc, &mut Vec::new()).unwrap());
        let old = "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(check("password", old, &mut Vec::new()).is_err());
    }

    #[test]
    fn costs_below_the_floor_are_known() {
        let cost = |memory, passes| Cost {
            memory,
            passes,
            lanes: 1,
        };
        assert!(cost(65_536, 3).is_enough() && cost(19_456, 2).is_enough() && cost(47_104, 1).is_enough());
        assert!(!cost(19_455, 2).is_enough() && !cost(19_456, 1).is_enough() && !cost(64, 100).is_enough());
    }
}
