//! Text as HTML.

/// With everything escaped that HTML means something by.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A comment: what stands between backticks is code.
pub(super) fn rich(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            out.push_str("<code>");
            out.push_str(&escape(part));
            out.push_str("</code>");
        } else {
            out.push_str(&escape(part));
        }
    }
    out
}

/// A comment as paragraphs.
pub(super) fn paragraphs(text: &str) -> String {
    let parts = text.split("\n\n").filter(|part| !part.is_empty());
    parts.map(|part| format!("<p>{}</p>\n", rich(part))).collect()
}

#[cfg(test)]
mod tests {
    use super::{escape, paragraphs, rich};

    #[test]
    fn nothing_of_a_comment_is_markup() {
        assert_eq!(
            escape("<a href=\"x\">'&"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;"
        );
        assert_eq!(rich("a `b<c` d"), "a <code>b&lt;c</code> d");
        assert_eq!(paragraphs("a\n\nb"), "<p>a</p>\n<p>b</p>\n");
    }
}
