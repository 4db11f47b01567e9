//! "did you mean": the name that an author most likely meant.

/// The shortest word that may stand for what it begins, in bytes.
const WORD: usize = 4;

/// The candidate nearest to `word`, if one is near enough to be a slip of the pen.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = word.to_lowercase().replace(['-', ' '], "_");
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let longer = |candidate: &&&str| plain.len() >= WORD && candidate.to_lowercase().starts_with(&plain);
    if let [candidate] = candidates.iter().filter(longer).collect::<Vec<_>>()[..] {
        return Some(candidate);
    }
    let allowed = (plain.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&plain, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A hint that names the nearest candidate, or else all of them.
pub(crate) fn hint(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean \"{candidate}\"?"),
        None => format!("one of: {}", candidates.join(", ")),
    }
}
