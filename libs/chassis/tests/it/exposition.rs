//! A strict reader of Prometheus' text format 0.0.4, written from its specification and not from the writer.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a sample.
pub(crate) type Labels = BTreeMap<String, String>;

/// One metric with all its samples.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) samples: Vec<(String, Labels, f64)>,
}

/// Reads a whole page, or says what is wrong with it.
pub(crate) fn read(page: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    if !page.is_empty() && !page.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').ok_or("HELP without text")?;
            begin(&mut families, &mut current, name)?;
            unescape(text, false)?;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            if name != current {
                begin(&mut families, &mut current, name)?;
            }
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return Err(format!("unknown type {kind}"));
            }
            let family = families.get_mut(name).ok_or("no family")?;
            if !family.kind.is_empty() || !family.samples.is_empty() {
                return Err(format!("{name} has its type too late or twice"));
            }
            kind.clone_into(&mut family.kind);
        } else if !line.starts_with('#') {
            let (name, labels, value) = sample(line)?;
            let family = families.get_mut(&current).ok_or("a sample before its TYPE")?;
            let of_family = match family.kind.as_str() {
                "histogram" => name
                    .strip_prefix(&current)
                    .is_some_and(|suffix| ["_bucket", "_sum", "_count"].contains(&suffix)),
                _ => name == current,
            };
            if !of_family {
                return Err(format!("{name} stands among the samples of {current}"));
            }
            if !seen.insert((name.clone(), labels.clone())) {
                return Err(format!("{name} {labels:?} is there twice"));
            }
            family.samples.push((name, labels, value));
        }
    }
    for (name, family) in &families {
        check(name, family)?;
    }
    Ok(families)
}

fn begin(families: &mut BTreeMap<String, Family>, current: &mut String, name: &str) -> Result<(), String> {
    if !is_name(name, true) {
        return Err(format!("{name} is no name"));
    }
    if families.insert(name.to_owned(), Family::default()).is_some() {
        return Err(format!("{name} is there twice"));
    }
    name.clone_into(current);
    Ok(())
}

fn is_name(name: &str, colon: bool) -> bool {
    !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || colon && byte == b':')
}

fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('\\') => plain.push('\\'),
                Some('n') => plain.push('\n'),
                Some('"') if quotes => plain.push('"'),
                other => return Err(format!("unknown escape {other:?}")),
            },
            '"' if quotes => return Err("a bare quote".to_owned()),
            character => plain.push(character),
        }
    }
    Ok(plain)
}

fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let bad = || format!("no sample: {line}");
    let name_end = line.find(['{', ' ']).ok_or_else(bad)?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").ok_or_else(bad)?;
            let mut end = 0;
            let bytes = after.as_bytes();
            while *bytes.get(end).ok_or_else(bad)? != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            let value = unescape(&after[..end], true)?;
            if !is_name(label, false) || labels.insert(label.to_owned(), value).is_some() {
                return Err(bad());
            }
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None if rest.starts_with('}') => {}
                None => return Err(bad()),
            }
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').ok_or_else(bad)?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        value => value.parse().map_err(|_| bad())?,
    };
    if !is_name(name, true) {
        return Err(bad());
    }
    Ok((name.to_owned(), labels, value))
}

fn check(name: &str, family: &Family) -> Result<(), String> {
    match family.kind.as_str() {
        "counter" => {
            if !name.ends_with("_total") {
                return Err(format!("the counter {name} does not end in _total"));
            }
            if family
                .samples
                .iter()
                .any(|(_, _, value)| value.is_nan() || *value < 0.0)
            {
                return Err(format!("the counter {name} is negative"));
            }
        }
        "histogram" => histogram(name, family)?,
        _ => {}
    }
    Ok(())
}

/// Buckets go up, in bounds and counts, and the last one holds everything.
fn histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut sums = BTreeSet::new();
    for (sample, labels, value) in &family.samples {
        let mut labels = labels.clone();
        if sample.ends_with("_bucket") {
            let bound = labels.remove("le").ok_or("a bucket without bound")?;
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().map_err(|_| format!("bound {bound}"))?
            };
            series.entry(labels).or_default().push((bound, *value));
        } else if sample.ends_with("_count") {
            counts.insert(labels, *value);
        } else {
            sums.insert(labels);
        }
    }
    for (labels, buckets) in &series {
        let last = buckets.last().copied().unwrap_or_default();
        if !buckets.is_sorted_by(|earlier, later| earlier.0 < later.0 && earlier.1 <= later.1)
            || last.0 != f64::INFINITY
            || counts.get(labels) != Some(&last.1)
            || !sums.contains(labels)
        {
            return Err(format!("the histogram {name} {labels:?} is not whole"));
        }
    }
    if series.len() != counts.len() || series.len() != sums.len() {
        return Err(format!("the histogram {name} is not whole"));
    }
    Ok(())
}

#[test]
fn a_bad_page_is_refused() {
    let good =
        "# HELP a_total Ä \\\\ \\n\n# TYPE a_total counter\na_total{x=\"\\\"\\\\\\n,}\"} 1\na_total 2e3\n";
    let families = read(good).unwrap();
    let labels = Labels::from([("x".to_owned(), "\"\\\n,}".to_owned())]);
    assert_eq!(
        families["a_total"].samples,
        [
            ("a_total".to_owned(), labels, 1.0),
            ("a_total".to_owned(), Labels::new(), 2_000.0)
        ]
    );
    for bad in [
        "a_total 1\n",
        "# TYPE a counter\na 1\n",
        "# TYPE a_total counter\na_total -1\n",
        "# TYPE a_total counter\na_total 1",
        "# TYPE a_total counter\na_total{x=\"1} 1\n",
        "# TYPE a_total counter\na_total{x=\"\\t\"} 1\n",
        "# TYPE a_total counter\na_total{x=\"1\",x=\"2\"} 1\n",
        "# TYPE a_total counter\na_total{x-y=\"1\"} 1\n",
        "# TYPE a_total counter\na_total 1\na_total 1\n",
        "# TYPE a_total counter\nb_total 1\n",
        "# TYPE a_total counter\n# TYPE a_total counter\n",
        "# TYPE a gauge\na one\n",
        "# TYPE a wheel\n",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_count 1\n",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}
