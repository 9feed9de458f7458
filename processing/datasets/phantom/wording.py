"""The phrases that phantom reports are made of.

A template holds alternatives, `(a|b|)`, which may nest, and slots, `{side}`; `expand` picks and fills.
"""

import random
import re

_INNERMOST = re.compile(r"\(([^()]*)\)")


def expand(template: str, rng: random.Random, **slots: str) -> str:
    """One sentence of a template: alternatives picked, slots filled, spacing, articles and capital put right."""
    text = template.format(**slots)
    while "(" in text:
        text = _INNERMOST.sub(lambda match: rng.choice(match[1].split("|")), text)
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").replace(" .", ".").strip()
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    return text[:1].upper() + text[1:]


SEVERITY = (("mild", "minor", "slight"), ("moderate",), ("severe", "marked", "extensive"))
SIZE = (("small", "small", "tiny"), ("moderate", "moderate-sized", "medium-sized"), ("large", "large", "sizable"))
AMOUNT = (("small", "small", "trace", "tiny"), ("moderate",), ("large", "large", "sizable"))
WIDTH = (("mild", "mild", "borderline"), ("moderate",), ("severe", "marked"))
WIDTH_LY = (("mildly", "slightly", "minimally"), ("moderately",), ("severely", "markedly"))

# kind -> templates of a plain statement. Slots: side, lobe (a phrase with "the"), lobe_name, size, degree, degree_ly.
POSITIVE = {
    "effusion": (
        "There is a {size} {side}(|-sided) pleural effusion.",
        "A {size} {side} pleural effusion is (present|seen|noted|identified|demonstrated).",
        "{size} {side} pleural effusion(| is present| is noted| is seen).",
        "There is blunting of the {side} costophrenic angle, (consistent with|in keeping with|compatible with) "
        "(a|) {size} pleural effusion.",
        "(There is|) layering {size} {side} pleural fluid.",
        "Meniscus at the {side} (lung|) base, (consistent with|indicating|due to) {size} pleural effusion.",
        "A {size} amount of {side} pleural fluid is (present|seen).",
    ),
    "bilateral effusion": (
        "There are {size} bilateral pleural effusions.",
        "{size} bilateral pleural effusions(| are present| are noted| are seen).",
        "Bilateral pleural effusions are (present|seen|noted), {size} in size.",
        "Pleural fluid is seen (bilaterally|on both sides), {size} in amount.",
        "There is blunting of both costophrenic angles, (consistent with|in keeping with) {size} pleural effusions.",
    ),
    "pneumothorax": (
        "There is a {size} {side}(| apical) pneumothorax.",
        "A {size} {side}(| apical|-sided) pneumothorax is (present|seen|noted|identified).",
        "{size} {side}(| apical) pneumothorax(| is present| is seen).",
        "A pleural line is visible at the {side} apex, (consistent with|in keeping with|indicating) a {size} "
        "pneumothorax.",
        "Absent lung markings (in the {side} upper hemithorax|along the {side} chest wall), "
        "(consistent with|compatible with) {size} pneumothorax.",
    ),
    "consolidation": (
        "There is (|a |{degree} )(|dense |focal |lobar |confluent )consolidation (in|of|within|involving) {lobe}.",
        "(Dense|Focal|Airspace|Confluent|{degree}) consolidation is (present|seen|noted|identified) (in|within) "
        "{lobe}.",
        "{lobe} is consolidated(| with air bronchograms|).",
        "(Dense |Focal |){lobe_name} consolidation(| with air bronchograms| is present| is seen| is noted).",
        "There is {degree} airspace consolidation in {lobe}(|, with air bronchograms).",
        "(A |){size} area of consolidation (occupies|is centered in|is seen in) {lobe}.",
        "There is a dense opacity in {lobe}, (consistent with|in keeping with|compatible with) consolidation.",
    ),
    "opacity": (
        "There is (a|) {degree} (hazy|patchy|ill-defined|ground-glass) opacity (in|within|projecting over) {lobe}.",
        "(Hazy|Patchy|Ill-defined|Ground-glass) opacity is (present|seen|noted) in {lobe}, {degree}.",
        "{degree} (hazy|patchy|ill-defined) {lobe_name} (opacity|airspace opacity)(| is seen| is present| is noted).",
        "{lobe_name} (airspace|patchy|hazy) opacity(|, {degree} in extent).",
        "There are {degree} (patchy|hazy|ill-defined) opacities in {lobe}.",
        "(A|) {degree} (hazy|patchy|vague) area of increased opacity is (seen|noted|present) in {lobe}.",
        "(A|) {degree} (patchy|ill-defined) infiltrate is (seen|present) in {lobe}.",
    ),
    "atelectasis": (
        "There is {degree} {lobe_name} atelectasis(| with volume loss).",
        "{degree} atelectasis (is present|is seen|is noted) (in|of) {lobe}.",
        "{lobe_name} atelectasis, {degree}(|, with associated volume loss).",
        "{degree} volume loss (in|of) {lobe}, (consistent with|compatible with|in keeping with) atelectasis.",
        "{lobe} is {partly} collapsed(|, with volume loss), consistent with atelectasis.",
        "(Linear|Streaky|Plate-like|Bandlike) opacity in {lobe} is (consistent with|compatible with) {degree} "
        "atelectasis.",
        "There is {degree} (subsegmental |discoid |plate-like |)atelectasis in {lobe}.",
        "{degree} atelectatic (changes are|change is) (seen|noted|present) in {lobe}.",
    ),
    "edema": (
        "There is {degree} (|interstitial )pulmonary edema.",
        "{degree} (pulmonary|interstitial|interstitial pulmonary) edema(| is present| is seen| is noted).",
        "{degree} pulmonary vascular congestion (with|and) (interstitial |pulmonary |)edema.",
        "Perihilar (haziness|vascular indistinctness) bilaterally, (consistent with|in keeping with) {degree} "
        "pulmonary edema.",
        "(Findings of|There is evidence of) {degree} pulmonary edema(|, with indistinct pulmonary vessels| with "
        "vascular "
        "congestion).",
        "Bilateral perihilar opacities are (consistent with|compatible with) {degree} pulmonary edema.",
    ),
    "nodule": (
        "There is a {size} (rounded |well-defined |) (pulmonary |)nodule in {lobe}.",
        "A {size} (pulmonary |lung |) nodule (is seen|projects|is noted|is present) (in|over) {lobe}.",
        "{size} {lobe_name} (pulmonary |)nodule(| is seen| is noted).",
        "A {size} nodular density (projects over|is seen in) {lobe}.",
    ),
    "mass": (
        "There is a {size} (rounded |lobulated |)(mass|lung mass) in {lobe}.",
        "A {size} (pulmonary |lung |rounded |)mass is (seen|present|noted|identified) in {lobe}.",
        "{size} {lobe_name} mass(| is present| is again noted|).",
        "A {size} mass (projects over|occupies part of|is centered in) {lobe}.",
    ),
    "cardiomegaly": (
        "The (heart|cardiac silhouette) is {degree_ly} enlarged.",
        "There is {degree} cardiomegaly.",
        "{degree} cardiomegaly(| is present| is noted| is seen).",
        "{degree} enlargement of the (heart|cardiac silhouette)(| is present| is noted).",
        "Heart size is {degree_ly} (enlarged|increased).",
    ),
    "wide_mediastinum": (
        "The (superior |upper |)mediastinum is {degree_ly} widened.",
        "There is {degree} widening of the (superior |upper |)mediastinum.",
        "{degree} (mediastinal widening|widening of the mediastinal contour)(| is present| is noted).",
        "The mediastinal (contour|silhouette) is {degree_ly} (widened|enlarged).",
        "The vascular pedicle is {degree_ly} widened.",
    ),
    "rib_fracture": (
        "There is (a|an acute|a {displaced}) (|lateral )(|mid )fracture of a {side} rib.",
        "{displaced} {side} rib fracture(| is present| is seen| is noted| is identified).",
        "A {displaced} fracture of (a {side} rib|one of the {side} ribs) is (seen|noted|identified).",
        "(Cortical irregularity|Cortical step-off) of a {side} rib, (consistent with|compatible with) "
        "{displaced} fracture.",
    ),
    "clavicle_fracture": (
        "There is a {displaced} fracture of the {side} clavicle.",
        "{displaced} {side} clavicle fracture(| is present| is seen| is noted).",
        "{side} (mid-clavicular|midshaft clavicular|clavicular) fracture(|, {displaced}).",
        "The {side} clavicle is fractured(|, {displaced}).",
    ),
    "endotracheal_tube": (
        "(An |The |)endotracheal tube (tip |)(is in place|terminates above the carina|is in standard "
        "position|is seen in "
        "the trachea).",
        "The patient is intubated, (with the tip of the|) endotracheal tube (above the carina|in the mid trachea).",
        "ET tube (is in place|tip is (several centimeters|) above the carina|is in satisfactory position).",
    ),
    "enteric_tube": (
        "(An enteric|A nasogastric|The enteric|A feeding|An orogastric) tube (courses below the "
        "diaphragm|passes into the "
        "stomach|is in place|extends into the upper abdomen).",
        "(NG|Enteric|OG) tube (courses below the diaphragm|terminates in the stomach|is in place).",
    ),
    "central_line": (
        "(There is|) a {side} (internal jugular|subclavian|) central venous catheter (with its tip "
        "in|terminating in) the "
        "(superior vena cava|mid SVC|lower SVC|cavoatrial junction).",
        "{side}(|-sided) (central venous|) (catheter|line) (tip is|terminates) in the (SVC|superior vena "
        "cava|low SVC).",
        "A {side}(|-sided) (PICC|IJ central|Port-A-Cath) catheter (ends|terminates) in the (SVC|superior vena cava).",
    ),
    "chest_tube": (
        "(There is|) a {side}(|-sided) chest tube in place.",
        "A {side} (chest tube|pigtail catheter|thoracostomy tube) is (in place|present|seen|again noted).",
        "{side} chest tube (is in place|projects over the {side} hemithorax|remains in position).",
    ),
    "pacemaker": (
        "A {side}(|-sided) (pacemaker|pacemaker device|dual-lead pacemaker|cardiac pacing device) (is in "
        "place|is present|"
        "with leads in expected position is seen).",
        "{side} (chest wall|pectoral) pacemaker (is in place|is noted|with leads (over|projecting over) the heart).",
        "(A|The) pacing device overlies the {side} chest, with leads (in the right heart|in expected location).",
    ),
}

HEDGED = {
    "effusion": (
        "(Possible|Questionable|Suspected) {size} {side} pleural effusion.",
        "A {size} {side} pleural effusion (cannot be excluded|is not excluded|is possible|is suspected|may be "
        "present).",
        "(Subtle|Slight|Minimal) blunting of the {side} costophrenic angle may (represent|reflect|indicate) a {size} "
        "pleural effusion.",
    ),
    "bilateral effusion": (
        "(Possible|Questionable|Suspected) {size} bilateral pleural effusions.",
        "{size} bilateral pleural effusions (cannot be excluded|are not excluded|are possible|are suspected).",
    ),
    "pneumothorax": (
        "(Possible|Questionable|Suspected) {size} {side}(| apical) pneumothorax.",
        "A {size} {side}(| apical) pneumothorax (cannot be excluded|is not excluded|is possible|is suspected).",
        "A faint line at the {side} apex may (represent|reflect|indicate) a {size} pneumothorax.",
    ),
    "consolidation": (
        "(Possible|Questionable|Suspected) consolidation in {lobe}.",
        "(Developing|Early|) consolidation in {lobe} (cannot be excluded|is not excluded|is possible|is suspected).",
        "(Increased density|Increased attenuation) in {lobe} may (represent|reflect) {degree} consolidation.",
    ),
    "opacity": (
        "(Possible|Questionable|Suspected) {degree} (hazy |)opacity in {lobe}.",
        "There may be a {degree} (hazy|patchy|subtle) opacity in {lobe}.",
        "{degree} (hazy |patchy |)opacity in {lobe} (cannot be excluded|is suspected|is possible).",
    ),
    "atelectasis": (
        "(Possible|Probable|Suspected) {degree} {lobe_name} atelectasis.",
        "{degree} atelectasis in {lobe} (is suspected|is possible|cannot be excluded).",
        "(Slight|Subtle) volume loss in {lobe} may (represent|reflect) atelectasis.",
    ),
    "edema": (
        "(Possible|Questionable|Probable) {degree} pulmonary edema.",
        "{degree} (interstitial |pulmonary |)edema (cannot be excluded|is possible|is suspected|is not excluded).",
        "Indistinct pulmonary vessels may (represent|reflect|indicate) {degree} pulmonary edema.",
    ),
    "nodule": (
        "(Possible|Questionable|Suspected) {size} nodule in {lobe}.",
        "A {size} nodule in {lobe} (cannot be excluded|is suspected|is possible).",
        "A (faint|vague|subtle) density in {lobe} may (represent|reflect) a {size} pulmonary nodule.",
    ),
    "mass": (
        "(Possible|Questionable|Suspected) {size} mass in {lobe}.",
        "A {size} mass in {lobe} (cannot be excluded|is suspected|is possible).",
        "(Masslike|Rounded) density in {lobe} may (represent|reflect) a {size} lung mass.",
    ),
    "cardiomegaly": (
        "(Possible|Probable|Questionable) {degree} cardiomegaly.",
        "{degree} cardiomegaly (cannot be excluded|is possible|is suspected).",
        "The (heart|cardiac silhouette) may be {degree_ly} enlarged.",
        "The cardiac silhouette appears prominent, possibly {degree_ly} enlarged.",
    ),
    "wide_mediastinum": (
        "(Possible|Questionable|Probable) {degree} widening of the (superior |)mediastinum.",
        "The (superior |upper |)mediastinum may be {degree_ly} widened.",
        "{degree} mediastinal widening (cannot be excluded|is possible|is suspected).",
    ),
    "rib_fracture": (
        "(Possible|Questionable|Suspected) {side} rib fracture.",
        "A {displaced} {side} rib fracture (cannot be excluded|is suspected|is possible).",
        "Cortical irregularity of a {side} rib may (represent|reflect) a fracture.",
    ),
    "clavicle_fracture": (
        "(Possible|Questionable|Suspected) {side} clavicle fracture.",
        "A fracture of the {side} clavicle (cannot be excluded|is suspected|is possible).",
    ),
}

# An effusion with the collapse that it causes, in one sentence.
EFFUSION_WITH_ATELECTASIS = (
    "There is a {size} {side} pleural effusion with (adjacent|associated|overlying) {lobe_name} atelectasis.",
    "{size} {side} pleural effusion and (adjacent|associated|compressive) {lobe_name} atelectasis(| are present).",
    "A {size} {side} pleural effusion is (seen|present), with {degree} {lobe_name} atelectasis.",
)

# A consolidation or opacity read as pneumonia: appended to its sentence, or a sentence of its own.
PNEUMONIA = {
    1: (
        ", (consistent with|compatible with|in keeping with|representing|most consistent with) pneumonia",
        ", (findings |)compatible with an infectious process such as pneumonia",
        "|(Findings|Appearances) are (consistent|compatible|in keeping) with pneumonia.",
        "|This is (consistent|compatible) with pneumonia.",
    ),
    2: (
        ", (concerning for|suspicious for|worrisome for|suggestive of) pneumonia",
        ", which (may|could|might) (represent|reflect|be due to) pneumonia",
        "|(Findings|Appearances) (are concerning|are suspicious|raise concern) for pneumonia.",
        "|Pneumonia (is possible|cannot be excluded|is suspected|is not excluded).",
    ),
}

# Observation -> statements of its absence, and the noun for a list of absent findings.
NEGATIVE = {
    "Enlarged Cardiomediastinum": (
        "(The |)mediastinal (contours are|contour is|silhouette is) (normal|unremarkable|within normal limits).",
        "The mediastinum is (normal|unremarkable|not widened|within normal limits|of normal width).",
        "Mediastinal and hilar contours are (normal|unremarkable|within normal limits).",
        "(There is no|No) mediastinal widening.",
    ),
    "Cardiomegaly": (
        "(The |)heart size is (normal|within normal limits).",
        "The heart is (normal in size|not enlarged|of normal size).",
        "(The |)cardiac silhouette is (normal in size|not enlarged|unremarkable|within normal limits).",
        "Cardiac size is (normal|within normal limits).",
        "(There is no|No) cardiomegaly.",
    ),
    "Lung Opacity": (
        "(The |Both )lungs are (clear|clear bilaterally|clear of (focal |)opacity).",
        "(There is no (focal |)(airspace |)opacity|No (focal |)(airspace |)opacity(| is seen| is identified)).",
        "The lungs are (well aerated and clear|grossly clear|free of focal infiltrate|clear without focal opacity).",
        "No focal (airspace disease|infiltrate)(| is seen| is present).",
    ),
    "Lung Lesion": (
        "(There is no|No) (suspicious |discrete |)(pulmonary |lung |)(nodule or mass|nodule|mass).",
        "There are no (nodules or masses|pulmonary nodules|suspicious nodules).",
    ),
    "Edema": (
        "(There is no|No) (overt |evidence of |)(pulmonary |interstitial )edema.",
        "(The |)pulmonary (vasculature|vascularity) is (normal|unremarkable|within normal limits|not engorged).",
        "(There is no|No) pulmonary vascular congestion(| or edema).",
    ),
    "Consolidation": (
        "(There is no (focal |lobar |)consolidation|No (focal |lobar |confluent |)consolidation(| is seen| is "
        "identified)).",
        "The lungs are without (focal |)consolidation.",
        "No (focal |)airspace consolidation.",
    ),
    "Pneumonia": (
        "(There is no|No) (radiographic |)evidence of pneumonia.",
        "No (findings|signs) of pneumonia.",
        "(There is no|No) pneumonia.",
    ),
    "Atelectasis": (
        "(There is no|No) (evidence of |)atelectasis.",
        "The lungs are (well expanded|well inflated|fully expanded).",
        "(There is no|No) volume loss.",
    ),
    "Pneumothorax": (
        "(There is no|No) (evidence of |visible |)pneumothorax.",
        "No pneumothorax is (seen|identified|present).",
        "No pneumothorax on either side.",
    ),
    "Pleural Effusion": (
        "(There is no|No) (evidence of |large |)pleural effusion.",
        "No pleural effusion is (seen|identified|present).",
        "(The |)costophrenic angles are (clear|sharp|preserved).",
        "(There are no|No) pleural effusions.",
    ),
    "Fracture": (
        "(There is no (acute |displaced |)(rib |)fracture|No (acute |displaced |)(rib |)fracture(| is seen| is "
        "identified)).",
        "(The |)(osseous structures|bones|visualized bones|bony structures) are (intact|unremarkable|grossly intact).",
        "No acute (osseous|bony) abnormality(| is identified| is seen).",
        "The bony thorax is (intact|grossly intact).",
    ),
    "Support Devices": (
        "(There are no|No) (support devices|lines or tubes|indwelling lines or tubes).",
        "No (tubes, lines or catheters|indwelling devices) are (seen|present).",
    ),
}
NEGATIVE_NOUN = {
    "Consolidation": "(focal |)consolidation",
    "Pleural Effusion": "(pleural |large pleural |)effusion",
    "Pneumothorax": "pneumothorax",
    "Edema": "(pulmonary |overt |)edema",
    "Lung Lesion": "(suspicious nodule|nodule|mass)",
    "Lung Opacity": "focal opacity",
    "Fracture": "(acute |displaced )fracture",
}
NEGATIVE_LIST = (
    "No {nouns}(| is seen| is identified| is present).",
    "(There is no|No) evidence of {nouns}.",
    "The lungs (show|demonstrate) no {nouns}.",
    "(There is no|No) {nouns}.",
)
NORMAL_CARDIOMEDIASTINUM = (
    "(The |)cardiomediastinal (silhouette is|contours are) (normal|unremarkable|within normal limits).",
    "(The |)heart and mediastinum are (normal|unremarkable|within normal limits).",
    "(The |)(cardiac and mediastinal|heart and mediastinal) contours are (normal|unremarkable|within normal limits).",
    "Heart size and mediastinal contours are (normal|unremarkable|within normal limits).",
)
OTHER = {
    "abdomen": (
        "No free air (below|under|beneath) the (right hemi|)diaphragm(| is seen).",
        "The (visualized |)upper abdomen is unremarkable.",
    ),
    "spine": (
        "(Mild |)degenerative changes (are noted in|of) the thoracic spine.",
        "Degenerative changes (are seen in the spine|of the spine are present).",
    ),
}
TECHNIQUE = {
    ("PA", "LATERAL"): ("(PA|Frontal) and lateral views of the chest (were|are) (obtained|provided).",),
    ("AP", "LATERAL"): ("AP and lateral views of the chest (were|are) (obtained|provided).",),
    ("PA",): ("(A single|A) (PA|frontal) view of the chest (was|is) (obtained|provided).",),
    ("AP",): ("(Single|A single|) portable AP (view|radiograph) of the chest (was|is) (obtained|provided).",),
    ("LATERAL",): ("A (single |)lateral view of the chest (was|is) (obtained|provided).",),
}
UNCHANGED = (
    "unchanged",
    "(unchanged|stable) (from|compared to|since) (the prior study|the prior exam|___|the study of ___)",
    "similar to (prior|the prior study|___)",
)
NEW = (
    "new since (the prior study|the prior exam|___|the study of ___)",
    "new (from|compared to) (the prior study|prior|___)",
)
CHANGED = (
    "(increased|slightly increased|progressed) (from|compared to) (the prior study|prior|___)",
    "(decreased|slightly improved|improved) (since|from) (the prior study|___)",
)
# What is said of a finding beside an earlier study, by its course, and of one that has gone.
AFTER_AN_EARLIER_STUDY = {
    "same": (
        "(unchanged|stable) (from|compared to|since) (the prior study|the prior exam|___|the study of ___)",
        "similar to (the prior study|___)",
        "unchanged",
    ),
    "worse": (
        "(increased|worsened|progressed) (from|compared to|since) (the prior study|the prior exam|___)",
        "larger than on the prior study",
    ),
    "better": (
        "(decreased|improved) (from|compared to|since) (the prior study|the prior exam|___)",
        "smaller than on the prior study",
    ),
    "new": ("new (since|from|compared to) (the prior study|the prior exam|___|the study of ___)",),
}
GONE = (
    "The previously seen {finding} has resolved.",
    "The {finding} seen previously is no longer present.",
    "Interval resolution of the {finding}.",
)

NORMAL_IMPRESSION = (
    "No acute cardiopulmonary (process|abnormality|disease|findings).",
    "No (acute intrathoracic|acute cardiothoracic) (process|abnormality).",
    "Normal chest (radiograph|x-ray|).",
    "No acute (findings|disease).",
    "No radiographic evidence of (acute |active |)cardiopulmonary disease.",
    "Unremarkable chest (radiograph|x-ray).",
)
IMPRESSION = {
    "effusion": "{size} {side} pleural effusion",
    "bilateral effusion": "{size} bilateral pleural effusions",
    "pneumothorax": "{size} {side} pneumothorax",
    "consolidation": "(|{degree} ){lobe_name} consolidation",
    "opacity": "(|{degree} ){lobe_name} opacity",
    "atelectasis": "(|{degree} ){lobe_name} atelectasis",
    "edema": "{degree} pulmonary edema",
    "nodule": "{lobe_name} (pulmonary |)nodule",
    "mass": "{lobe_name} mass",
    "cardiomegaly": "{degree} cardiomegaly",
    "wide_mediastinum": "{degree} mediastinal widening",
    "rib_fracture": "{side} rib fracture",
    "clavicle_fracture": "{side} clavicle fracture",
    "endotracheal_tube": "endotracheal tube in (place|standard position)",
    "enteric_tube": "enteric tube in (place|the stomach)",
    "central_line": "{side} central venous catheter (in place|in standard position)",
    "chest_tube": "{side} chest tube in place",
    "pacemaker": "pacemaker in place",
}
