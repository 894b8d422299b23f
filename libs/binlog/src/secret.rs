//! Secrets in statements. The log keeps `CREATE USER` as it ran: MySQL writes the hash, MariaDB the password itself.
//!
//! What is masked is what stands after `IDENTIFIED` and `PASSWORD`, wherever the statement has them, also within the body of a routine. This is no
//! SQL parser, and must be wrong on one side only: where a text can be read in two ways (with `NO_BACKSLASH_ESCAPES` a backslash escapes no quote),
//! nothing is left of it from there on.

use std::borrow::Cow;

/// What stands in the place of a secret.
const MASK: &str = "'***'";
/// What may stand behind a word in the text of an account and is none.
const HARMLESS: [&str; 6] = ["WITH", "VIA", "COMMENT", "SUBJECT", "ISSUER", "CIPHER"];

/// `text` without the passwords and hashes of accounts and servers.
pub fn masked(text: &str) -> Cow<'_, str> {
    if find(text, "identified").is_none() && find(text, "password").is_none() {
        return Cow::Borrowed(text);
    }
    let Some(pieces) = pieces(text) else {
        return cut(text);
    };
    let secret = secrets(&pieces);
    if !secret.contains(&true) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for (piece, secret) in pieces.iter().zip(secret) {
        out.push_str(match piece.kind {
            _ if secret => MASK,
            // What somebody remarked on a password.
            Kind::Comment => " ",
            _ => piece.text,
        });
    }
    Cow::Owned(out)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// White space, and the marks of a comment that is executed.
    Space,
    Comment,
    /// A bare word or number.
    Word,
    /// A text in single or double quotes.
    Text,
    /// A name in backticks, or a mark.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Piece<'t> {
    kind: Kind,
    text: &'t str,
}

impl Piece<'_> {
    fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    fn counts(&self) -> bool {
        !matches!(self.kind, Kind::Space | Kind::Comment)
    }

    /// A text, or bytes in hexadecimal.
    fn is_value(&self) -> bool {
        let hex = || self.text.len() > 2 && self.text.as_bytes()[..2].eq_ignore_ascii_case(b"0x");
        self.kind == Kind::Text || self.kind == Kind::Word && hex()
    }

    fn is_password(&self) -> bool {
        let word = self.text.as_bytes();
        self.kind == Kind::Word && word.len() >= 8 && word[word.len() - 8..].eq_ignore_ascii_case(b"password")
    }
}

/// Which pieces are secrets.
fn secrets(pieces: &[Piece<'_>]) -> Vec<bool> {
    let mut secret = vec![false; pieces.len()];
    let counting: Vec<usize> = (0..pieces.len()).filter(|nth| pieces[*nth].counts()).collect();
    let at = |nth: usize| counting.get(nth).map(|nth| &pieces[*nth]);
    let is =
        |nth: usize, words: &[&str]| at(nth).is_some_and(|piece| words.iter().any(|word| piece.is(word)));
    // From here on everything is about accounts.
    let mut account = false;
    // The password itself comes next.
    let mut next = false;
    for (nth, place) in counting.iter().enumerate() {
        let piece = &pieces[*place];
        account |= piece.is("IDENTIFIED") && is(nth + 1, &["BY", "WITH", "VIA", "AS"])
            || piece.is("PASSWORD") && nth > 0 && is(nth - 1, &["SET"]);
        if piece.is_value() {
            let of_a_name = |other: Option<&Piece<'_>>| other.is_some_and(|piece| piece.text == "@");
            let before = nth.checked_sub(1);
            let harmless = of_a_name(at(nth + 1))
                || of_a_name(before.and_then(at))
                || before.is_some_and(|nth| is(nth, &HARMLESS));
            secret[*place] = next || account && !harmless;
        }
        next = piece.is_password() || next && matches!(piece.text, "=" | "(");
    }
    secret
}

/// The pieces of a statement; none if it can be read in two ways.
fn pieces(text: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = piece(rest, first)?;
        let (piece, after) = rest.split_at(length);
        pieces.push(Piece { kind, text: piece });
        rest = after;
    }
    Some(pieces)
}

/// The kind and length of the piece that `text` begins with.
fn piece(text: &str, first: char) -> Option<(Kind, usize)> {
    let line = || text.find('\n').unwrap_or(text.len());
    Some(match first {
        '\'' | '"' => (Kind::Text, quoted(text, first)?),
        '`' => (Kind::Other, 2 + text[1..].find('`')?),
        '#' => (Kind::Comment, line()),
        '-' if text.starts_with("--") && text[2..].chars().next().is_none_or(char::is_whitespace) => {
            (Kind::Comment, line())
        }
        '*' if text.starts_with("*/") => (Kind::Space, 2),
        '/' if text.starts_with("/*!") || text.starts_with("/*M!") => {
            let mark = if text.starts_with("/*!") { 3 } else { 4 };
            let digits = text[mark..].bytes().take_while(u8::is_ascii_digit).count();
            (Kind::Space, mark + digits)
        }
        '/' if text.starts_with("/*") => (Kind::Comment, 4 + text[2..].find("*/")?),
        c if c.is_whitespace() => (Kind::Space, c.len_utf8()),
        c if is_word(c) => (Kind::Word, text.find(|c| !is_word(c)).unwrap_or(text.len())),
        c => (Kind::Other, c.len_utf8()),
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

/// The length of the text in quotes that `text` begins with; none if it has no end, or another one where backslashes mean nothing.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            // Two of them are one in it; taken as two texts they are told as well.
            return Some(at + 1);
        }
        if c == '\\' && chars.next()?.1 == quote {
            return None;
        }
    }
    None
}

/// Everything up to the first word that a secret may follow, in quotes or not.
fn cut(text: &str) -> Cow<'_, str> {
    let mut from = 0;
    let ends = std::iter::from_fn(|| {
        let found =
            ["identified", "password"].map(|word| find(&text[from..], word).map(|at| at + word.len()));
        from += found.into_iter().flatten().min()?;
        Some(from)
    });
    for end in ends {
        if tells(text, end) {
            return Cow::Owned(format!("{} {MASK}", &text[..end]));
        }
    }
    Cow::Borrowed(text)
}

/// Whether what stands behind the word that ends there makes it one that a secret follows.
fn tells(text: &str, end: usize) -> bool {
    let identified =
        text[..end].ends_with(['d', 'D']) && text[..end].to_ascii_lowercase().ends_with("identified");
    let mut rest = &text[end..];
    while let Some(first) = rest.chars().next() {
        let Some((kind, length)) = piece(rest, first) else {
            return true;
        };
        let piece = Piece {
            kind,
            text: &rest[..length],
        };
        if piece.counts() {
            let words: &[&str] = if identified {
                &["BY", "WITH", "VIA", "AS"]
            } else {
                &["FOR"]
            };
            return words.iter().any(|word| piece.is(word))
                || !identified && (piece.is_value() || matches!(piece.text, "=" | "("));
        }
        rest = &rest[length..];
    }
    false
}

/// Where `word` stands first, whatever its case.
fn find(text: &str, word: &str) -> Option<usize> {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    text.windows(word.len())
        .position(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::masked;

    /// As MariaDB 10.11 and MySQL 8.0 and 9 write them into their logs, and as people type them.
    const ACCOUNTS: &[(&str, &str)] = &[
        (
            "CREATE USER 'ann'@'%' IDENTIFIED WITH 'caching_sha2_password' AS '$A$005$SECRET'",
            "CREATE USER 'ann'@'%' IDENTIFIED WITH 'caching_sha2_password' AS '***'",
        ),
        (
            "CREATE USER 'ann'@'%' IDENTIFIED WITH 'caching_sha2_password' AS 0x24412430303524SECRET REQUIRE NONE",
            "CREATE USER 'ann'@'%' IDENTIFIED WITH 'caching_sha2_password' AS '***' REQUIRE NONE",
        ),
        (
            "ALTER USER 'ann'@'%' IDENTIFIED WITH 'mysql_native_password' AS '*SECRET' RETAIN CURRENT PASSWORD",
            "ALTER USER 'ann'@'%' IDENTIFIED WITH 'mysql_native_password' AS '***' RETAIN CURRENT PASSWORD",
        ),
        (
            "create user ann identified by 'SECRET' comment 'of ann', 'bob'@'%' identified by \"SECRET\" replace 'SECRET'",
            "create user ann identified by '***' comment 'of ann', 'bob'@'%' identified by '***' replace '***'",
        ),
        (
            "CREATE USER ann@localhost IDENTIFIED VIA ed25519 USING PASSWORD('SECRET') OR mysql_native_password USING '*SECRET'",
            "CREATE USER ann@localhost IDENTIFIED VIA ed25519 USING PASSWORD('***') OR mysql_native_password USING '***'",
        ),
        (
            "GRANT SELECT ON shop.* TO 'ann'@'10.%' IDENTIFIED BY PASSWORD '*SECRET' REQUIRE SUBJECT '/CN=ann' WITH GRANT OPTION",
            "GRANT SELECT ON shop.* TO 'ann'@'10.%' IDENTIFIED BY PASSWORD '***' REQUIRE SUBJECT '/CN=ann' WITH GRANT OPTION",
        ),
        (
            "SET PASSWORD FOR 'ann'@'%'='*SECRET'",
            "SET PASSWORD FOR 'ann'@'%'='***'",
        ),
        (
            "SET PASSWORD = PASSWORD('SECRET')",
            "SET PASSWORD = PASSWORD('***')",
        ),
        (
            "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER 'ann', PASSWORD 'SECRET', HOST 'db')",
            "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER 'ann', PASSWORD '***', HOST 'db')",
        ),
        (
            "CREATE USER ann /* was SECRET */ IDENTIFIED/**/BY -- 'it\n _utf8mb4'SEC''RET' # SECRET",
            "CREATE USER ann   IDENTIFIED BY  \n _utf8mb4'***''***'  ",
        ),
        (
            "CREATE USER ann /*!50706 IDENTIFIED BY 'SECRET' */ /*M!100100 REQUIRE SSL */",
            "CREATE USER ann /*!50706 IDENTIFIED BY '***' */ /*M!100100 REQUIRE SSL */",
        ),
        (
            "CREATE PROCEDURE p() BEGIN CREATE USER ann IDENTIFIED BY x'5345SECRET'; SELECT 1; END",
            "CREATE PROCEDURE p() BEGIN CREATE USER ann IDENTIFIED BY x'***'; SELECT 1; END",
        ),
    ];

    #[test]
    fn no_secret_of_an_account_stays() {
        for (text, told) in ACCOUNTS {
            assert_eq!(masked(text), *told);
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_ends_at_the_first_secret() {
        for (text, told) in [
            (
                r"CREATE USER ann IDENTIFIED BY 'a\' , bob IDENTIFIED BY ' SECRET'",
                "CREATE USER ann IDENTIFIED '***'",
            ),
            (
                r"CREATE USER 'o\'hara'@'%' IDENTIFIED WITH x AS '$A$SEC\'RET'",
                r"CREATE USER 'o\'hara'@'%' IDENTIFIED '***'",
            ),
            (r"SET PASSWORD FOR 'o\'hara'@'%'='SECRET'", "SET PASSWORD '***'"),
            (
                "ALTER USER ann IDENTIFIED BY 'SECRET",
                "ALTER USER ann IDENTIFIED '***'",
            ),
            ("SET PASSWORD = /* 'SECRET'", "SET PASSWORD '***'"),
            (
                r"CREATE TABLE password_hints (hint TEXT COMMENT 'it\'s a hint')",
                r"CREATE TABLE password_hints (hint TEXT COMMENT 'it\'s a hint')",
            ),
        ] {
            assert_eq!(masked(text), told);
        }
    }

    #[test]
    fn other_statements_stay_as_they_are() {
        for text in [
            "ALTER TABLE shop.orders ADD note TEXT",
            "CREATE TABLE people (id INT, password VARCHAR(99) DEFAULT 'none' COMMENT 'identified by it')",
            "ALTER USER ann PASSWORD EXPIRE INTERVAL 90 DAY ACCOUNT LOCK",
            "CREATE TABLE `set password` (`identified` INT DEFAULT '1')",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn no_text_breaks_it() {
        let parts = [
            "IDENTIFIED",
            " BY ",
            "password",
            "'",
            "\"",
            "\\",
            "/*",
            "*/",
            "--",
            "#",
            "`",
            "@",
            "0x",
            "ü",
            "\n",
            "=",
            "(",
        ];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(parts[usize::try_from(state >> 33).unwrap_or(0) % parts.len()]);
            }
            let _ = masked(&text);
        }
    }
}
