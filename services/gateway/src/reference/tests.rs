use std::{collections::HashSet, sync::Arc};

use chassis::policy::Table;

use super::{STYLE, content_security_policy, page};
use crate::routes::Routes;

fn routes() -> Routes {
    Routes::load(Arc::new(Table::load(proto::DESCRIPTOR_SET).unwrap())).unwrap()
}

/// What stands between `before` and the next quote, everywhere.
fn all<'p>(page: &'p str, before: &str) -> Vec<&'p str> {
    page.split(before)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

#[test]
fn every_method_has_its_place_and_every_link_leads_somewhere() {
    let routes = routes();
    let page = page(&routes);
    let places = all(&page, "id=\"");
    let unique: HashSet<_> = places.iter().copied().collect();
    assert_eq!(places.len(), unique.len());
    for link in all(&page, "href=\"#") {
        assert!(unique.contains(link), "{link}");
    }
    for route in routes.methods() {
        assert!(unique.contains(super::anchor(route).as_str()), "{}", route.path);
        assert!(page.contains(&format!(">{}</code>", route.path)));
    }
    assert!(!page.contains("GuardService/"));
}

#[test]
fn the_page_needs_nothing_else() {
    let page = page(&routes());
    for forbidden in [
        "<script", "<img", "<link", "@import", "url(", " src=", " style=", "onclick",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains(STYLE) && STYLE.contains("prefers-color-scheme:dark"));
    assert!(content_security_policy().contains("style-src 'sha256-"));
    for tag in [
        "article", "section", "table", "div", "details", "pre", "code", "p", "ul", "li", "h2", "h3", "h4",
        "tr", "td",
    ] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}
