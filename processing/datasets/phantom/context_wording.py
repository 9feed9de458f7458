"""The phrases that indications and histories of phantom studies are made of."""

# Why the patient is examined -> complaints, questions, past illnesses.
COMPLAINTS = {
    "infection": (
        "fever and cough", "productive cough", "fever", "cough and leukocytosis", "fevers and chills",
        "cough for (three|five|several) days", "fever of unknown origin", "shortness of breath and fever", "sepsis",
    ),
    "heart failure": (
        "shortness of breath and leg swelling", "dyspnea on exertion", "orthopnea", "weight gain and dyspnea",
        "worsening shortness of breath", "hypoxia", "lower extremity edema", "acute dyspnea",
    ),
    "trauma": (
        "fall", "motor vehicle collision", "chest wall pain after fall", "trauma", "fall from standing",
        "pain after bicycle accident", "assault", "chest trauma",
    ),
    "malignancy": (
        "weight loss", "hemoptysis", "lung cancer, restaging", "chronic cough and weight loss", "known malignancy",
        "night sweats and weight loss", "metastatic disease", "fatigue and weight loss",
    ),
    "critical care": (
        "respiratory failure", "hypoxia", "altered mental status", "septic shock", "cardiac arrest",
        "respiratory distress", "line placement", "acute hypoxic respiratory failure",
    ),
    "surgery": (
        "recent surgery", "postoperative day (two|three|four)", "post-procedure check", "status post "
        "(cardiac|abdominal) "
        "surgery", "postoperative hypoxia", "fever after surgery",
    ),
    "unspecific": (
        "chest pain", "shortness of breath", "dyspnea", "cough", "weakness", "dizziness", "syncope", "preoperative "
        "evaluation", "abdominal pain", "chest discomfort", "palpitations", "chest pain and shortness of breath",
        "fatigue", "nausea and vomiting",
    ),
}  # fmt: skip
PNEUMONIA_COMPLAINTS = (
    "fever and cough", "productive cough", "fever", "cough and leukocytosis", "fevers, chills and cough",
    "fever and hypoxia", "productive cough and dyspnea",
)  # fmt: skip
QUESTIONS = {
    "infection": ("pneumonia", "infiltrate", "pneumonia", "infection", "acute process"),
    "heart failure": ("pulmonary edema", "CHF", "fluid overload", "pneumonia", "effusion", "acute process"),
    "trauma": ("fracture", "pneumothorax", "acute injury", "traumatic injury", "acute process"),
    "malignancy": ("mass", "metastatic disease", "pneumonia", "effusion", "interval change"),
    "critical care": ("interval change", "line position", "tube position", "pneumonia", "edema", "acute process"),
    "surgery": ("pneumothorax", "atelectasis", "effusion", "pneumonia", "interval change"),
    "unspecific": (
        "acute process",
        "pneumonia",
        "acute cardiopulmonary process",
        "infiltrate",
        "cardiopulmonary disease",
    ),
}
PAST = {
    "infection": ("COPD", "asthma", "immunosuppression", "recent upper respiratory infection", "smoking"),
    "heart failure": ("congestive heart failure", "hypertension", "coronary artery disease", "atrial fibrillation"),
    "trauma": ("osteoporosis", "alcohol use", "anticoagulation", "prior falls"),
    "malignancy": ("lung cancer", "breast cancer", "lymphoma", "smoking", "colon cancer on chemotherapy"),
    "critical care": ("end-stage renal disease", "cirrhosis", "stroke", "COPD", "recent intubation"),
    "surgery": (
        "coronary artery bypass grafting",
        "esophagectomy",
        "lobectomy",
        "hip replacement",
        "valve replacement",
    ),
    "unspecific": (
        "hypertension",
        "diabetes mellitus",
        "hyperlipidemia",
        "obesity",
        "anxiety",
        "GERD",
        "hypothyroidism",
    ),
}
INDICATION = (
    "{person} with {complaint}. {ask}",
    "{person} with {complaint}. {ask}",
    "{person}, {complaint}. {ask}",
    "{complaint}. {ask}",
    "{person} presenting with {complaint}. {ask}",
    "{complaint}.",
)
ASK = (
    "(Evaluate|Assess|Eval) for {question}.",
    "(Please evaluate|Evaluation) for {question}.",
    "Rule out {question}.",
    "{question}?",
    "Question {question}.",
)
HISTORY = (
    "(History of|Past medical history of) {past}.",
    "{past}.",
    "{person} with (a |)history of {past}.",
    "(Status post ___, |)history of {past}.",
)
