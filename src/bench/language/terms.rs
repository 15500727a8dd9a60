//! Terms and sentences that tables, figures and pages share.

use super::{Language, Text};
use crate::bench::record;
use crate::engine::{Account, Cause};

super::texts! {
    /// Between the members of a list.
    LIST_SEPARATOR { en ", " de ", " zh "、" }
    COLON { en ": " de ": " zh "：" }

    /// How many tasks of a set there are.
    ONE_TASK { en "{count} task" de "{count} Aufgabe" zh "{count} 项任务" }
    TASKS { en "{count} tasks" de "{count} Aufgaben" zh "{count} 项任务" }
    ONE_INTEGER { en "{count} integer task" de "{count} Ganzzahlaufgabe" zh "{count} 项整数任务" }
    INTEGER { en "{count} integer tasks" de "{count} Ganzzahlaufgaben" zh "{count} 项整数任务" }
    ONE_VECTOR { en "{count} FP and SIMD task" de "{count} Gleitkomma- und SIMD-Aufgabe" zh "{count} 项浮点与 SIMD 任务" }
    VECTOR { en "{count} FP and SIMD tasks" de "{count} Gleitkomma- und SIMD-Aufgaben" zh "{count} 项浮点与 SIMD 任务" }

    /// What one must know to read slowdowns.
    READING_SLOWDOWN {
        en "Slowdown is the median, over the rounds, of the ratio to native within a round: not exactly the quotient of the two medians."
        de "Die Verlangsamung ist der Median, über die Runden, des Verhältnisses zu nativ innerhalb einer Runde: nicht genau der Quotient der beiden Mediane."
        zh "减速倍数是各轮内与原生执行之比在所有轮次上的中位数：并不恰好等于两个中位数之商。"
    }
    READING_RING0 {
        en "A kernel timed in ring 0 is compared with native in ring 3; with its twin in ring 3 it counts once in a mean, as that."
        de "Ein Rechenkern, der in Ring 0 gemessen wurde, wird mit nativ in Ring 3 verglichen; mit seinem Zwilling in Ring 3 zählt er in einem Mittel einmal, als dieser."
        zh "在 ring 0 计时的计算内核与 ring 3 的原生执行相比；若它在 ring 3 也有结果，则在平均值中只按 ring 3 计一次。"
    }
    READING_MEAN_OF_TASKS {
        en "Mean of tasks: geometric, over those that every mode completed, of all that have a native figure."
        de "Mittel der Aufgaben: geometrisch, über die, die jeder Modus zu Ende brachte, von allen mit einer nativen Zahl."
        zh "任务的平均：几何平均，取有原生数据且所有模式都完成的任务。"
    }
    READING_MEAN_OF_INTEGER {
        en "Mean of integer tasks: geometric, over those that every mode completed, of {members}."
        de "Mittel der Ganzzahlaufgaben: geometrisch, über die, die jeder Modus zu Ende brachte, von {members}."
        zh "整数任务的平均：几何平均，取下列任务中所有模式都完成的：{members}。"
    }
    READING_MEAN_OF_VECTOR {
        en "Mean of FP and SIMD tasks: geometric, over those that every mode completed, of {members}."
        de "Mittel der Gleitkomma- und SIMD-Aufgaben: geometrisch, über die, die jeder Modus zu Ende brachte, von {members}."
        zh "浮点与 SIMD 任务的平均：几何平均，取下列任务中所有模式都完成的：{members}。"
    }

    /// That the host was busy.
    BUSY {
        en "The host was probably busy: {signs}. Measure again when it is idle."
        de "Der Wirt war wohl beschäftigt: {signs}. Bitte noch einmal messen, wenn er ruht."
        zh "宿主机当时可能繁忙：{signs}。请在空闲时重新测量。"
    }
    BUSY_LOAD {
        en "the load average was {load} on {cpus} CPUs when the run began"
        de "die mittlere Last war {load} auf {cpus} Prozessoren, als der Lauf begann"
        zh "运行开始时 {cpus} 个 CPU 上的平均负载为 {load}"
    }
    BUSY_INTERVALS {
        en "{wide} of {count} intervals are wider than ±10 %"
        de "{wide} von {count} Intervallen sind breiter als ±10 %"
        zh "{count} 个区间中有 {wide} 个宽于 ±10%"
    }
    AND { en ", and " de ", und " zh "，并且" }

    /// Names of facts.
    FACT_CPU { en "CPU" de "Prozessor" zh "处理器" }
    FACT_CPUS { en "CPUs online" de "Prozessoren in Betrieb" zh "在线 CPU" }
    FACT_KERNEL { en "kernel" de "Kern" zh "内核" }
    FACT_KVM_MODULE { en "KVM module" de "KVM-Modul" zh "KVM 模块" }
    FACT_KVM_LABEL { en "KVM is" de "KVM ist" zh "KVM 类型" }
    FACT_GOVERNOR { en "frequency governor" de "Taktregler" zh "调频策略" }
    FACT_CLOCK { en "clock source" de "Zeitquelle" zh "时钟源" }
    FACT_VERSION { en "trivisor's version" de "Version von trivisor" zh "trivisor 版本" }
    FACT_TSC { en "frequency of the TSC" de "Frequenz des TSC" zh "TSC 频率" }
    FACT_LOAD { en "load average" de "mittlere Last" zh "平均负载" }
    FACT_REPETITIONS { en "repetitions" de "Wiederholungen" zh "重复次数" }
    OPTION_LOAD { en "load average at the start" de "mittlere Last zu Beginn" zh "开始时的平均负载" }
    OPTION_WORKLOADS { en "workloads" de "Arbeitslasten" zh "负载" }
    OPTION_MODES { en "modes" de "Modi" zh "模式" }
    OPTION_SEED { en "seed" de "Startwert" zh "随机种子" }
    OPTION_BUDGET { en "budget of a measurement" de "Zeit je Messung" zh "每次测量的时间" }
    OPTION_TIMEOUT { en "timeout of a run" de "Zeitgrenze eines Laufs" zh "单次运行的超时" }
    OPTION_DEADLINE { en "deadline" de "Frist" zh "时限" }

    /// What a KVM is.
    LABEL_HARDWARE { en "hardware" de "Hardware" zh "硬件" }
    LABEL_NESTED { en "nested" de "geschachtelt" zh "嵌套" }
    LABEL_EMULATED { en "emulated supervisor" de "emulierter Supervisor" zh "模拟的内核态" }

    /// Why there is no figure, as far as this program says it when it reads a file.
    NOTE_OTHER_CIRCUMSTANCES {
        en "not comparable: measured under other circumstances"
        de "nicht vergleichbar: unter anderen Umständen gemessen"
        zh "不可比：测量条件不同"
    }
    NOTE_UNMEASURED { en "not measured" de "nicht gemessen" zh "未测量" }
    NOTE_UNSTEADY {
        en "diverged: checksum differs between repetitions"
        de "diverged: die Prüfsumme wechselt zwischen Wiederholungen"
        zh "diverged：各次重复的校验和不一致"
    }
    NOTE_NO_MAJORITY {
        en "diverged: no two modes agree on the checksum"
        de "diverged: keine zwei Modi haben dieselbe Prüfsumme"
        zh "diverged：没有两个模式的校验和相同"
    }
    NOTE_UNCHECKED {
        en "not checked: no other mode was measured whose checksum could be compared"
        de "nicht geprüft: es wurde kein anderer Modus gemessen, mit dem die Prüfsumme zu vergleichen wäre"
        zh "未核对：没有测量可供比较校验和的其他模式"
    }
}

/// A text of a CSV file or of the dataset in `language`, if it is one that this program wrote; else as it stands.
fn known<'a>(text: &'a str, language: Language, texts: &[Text]) -> &'a str {
    texts.iter().find(|known| known.en == text).map_or(text, |known| known.of(language))
}

/// A note on a cell in `language`; reasons that were recorded in another language than it stay as they are.
pub fn note(note: &str, language: Language) -> &str {
    let texts = [NOTE_OTHER_CIRCUMSTANCES, NOTE_UNMEASURED, NOTE_UNSTEADY, NOTE_NO_MAJORITY, NOTE_UNCHECKED];
    known(note, language, &texts)
}

/// The name of a fact or of an option of the run, by its name in the CSV or the side file; unknown ones stay.
pub fn fact(name: &str, language: Language) -> &str {
    let text = match name {
        "cpu" => FACT_CPU,
        "cpus" => FACT_CPUS,
        "kernel" => FACT_KERNEL,
        "kvm module" => FACT_KVM_MODULE,
        "kvm label" => FACT_KVM_LABEL,
        "governor" => FACT_GOVERNOR,
        "clock source" => FACT_CLOCK,
        "version" => FACT_VERSION,
        record::TSC => FACT_TSC,
        record::LOAD => FACT_LOAD,
        "repetitions" => FACT_REPETITIONS,
        "workloads" => OPTION_WORKLOADS,
        "modes" => OPTION_MODES,
        "seed" => OPTION_SEED,
        "budget" => OPTION_BUDGET,
        "timeout of a run" => OPTION_TIMEOUT,
        "deadline" => OPTION_DEADLINE,
        _ => return name,
    };
    text.of(language)
}

/// The first words of a KVM label, in `language`.
pub fn label(class: &str, language: Language) -> &str {
    known(class, language, &[LABEL_HARDWARE, LABEL_NESTED, LABEL_EMULATED])
}

/// When one exit of this cause is counted; `None` for what is no exit.
pub fn cause(cause: Cause) -> Option<Text> {
    let (de, zh) = match cause {
        Cause::SoftMmuFill => (
            "die Maschine die Seitentabellen des Gastes durchlief, weil eine Adresse nicht in ihrem eigenen Puffer war",
            "引擎因地址不在自己的缓存中而遍历客户机页表",
        ),
        Cause::Hypercall => (
            "eine gepatchte Stelle im Code des Gastes die Maschine rief",
            "客户机代码中打过补丁的位置调用了引擎",
        ),
        Cause::Privileged => (
            "die Maschine einen privilegierten oder sensitiven Befehl ausführte, der nicht als Hypercall kam",
            "引擎执行了一条并非以超级调用形式到来的特权或敏感指令",
        ),
        Cause::GuestException => ("der Gast eine Ausnahme betrat", "客户机进入了一次异常"),
        Cause::PageTableSync => (
            "die Seitentabellen des Gastes, oder ein Register, das sie steuert, auf die Abbildungen des Wirts übertragen wurden",
            "客户机页表或控制它的寄存器被同步到宿主机的映射",
        ),
        Cause::PortIo => ("ein Port eines Geräts gelesen oder geschrieben wurde", "读或写了设备端口"),
        Cause::Mmio => ("Gerätespeicher gelesen oder geschrieben wurde", "读或写了设备内存"),
        Cause::Interrupt => ("der Gast eine externe Unterbrechung betrat", "客户机进入了一次外部中断"),
        Cause::Idle => ("HLT wartete, weil keine Unterbrechung anstand", "因没有中断，HLT 进入等待"),
        Cause::Rescue => (
            "der Wirt einen Befehl nicht ausführen konnte und der Interpreter es tat",
            "宿主机无法执行某条指令，由解释器代为执行",
        ),
        Cause::Instruction
        | Cause::Translate
        | Cause::HostExit
        | Cause::Block
        | Cause::TranslateCycles
        | Cause::Link
        | Cause::HelpSingle
        | Cause::HelpLink
        | Cause::HelpJump
        | Cause::HelpKick
        | Cause::HelpWindow
        | Cause::JumpMiss
        | Cause::WindowMiss
        | Cause::CodeWrite
        | Cause::Flush => return None,
    };
    Some(Text { en: cause.about(), de, zh })
}

/// What an account of time holds.
pub fn account(account: Account) -> Text {
    let (de, zh) = match account {
        Account::Guest => (
            "Gastcode läuft oder interpretiert wird; in kvm auch, was der Kern des Wirts ungesehen für ihn tut, in pv, was er zwischen \
             einem Prozess und seinem Monitor tut",
            "客户机代码在运行或被解释；在 kvm 中还包括宿主机内核暗中为它做的工作，在 pv 中还包括宿主机内核在进程与其监控器之间做的工作",
        ),
        Account::Translate => ("Befehle dekodiert oder übersetzt werden", "指令被译码或翻译"),
        Account::Dispatch => (
            "die Maschine herausfindet, wofür Gastcode verlassen wurde und wo es weitergeht, und sonst nichts",
            "引擎查明为何离开客户机代码以及从何处继续，此外无事可做",
        ),
        Account::SoftMmuFill => (
            "Seitentabellen des Gastes durchlaufen oder Fenster verschoben werden, für Adressen, die die Maschine nicht kennt",
            "为引擎不认识的地址遍历客户机页表或移动窗口",
        ),
        Account::Hypercall => (
            "gepatchte Stellen im Gastcode, und seine eigenen Hypercalls, beantwortet werden",
            "应答客户机代码中打过补丁的位置以及它自己的超级调用",
        ),
        Account::Privileged => (
            "privilegierte Befehle für den Gast ausgeführt werden, und solche, die nicht übersetzt werden",
            "替客户机执行特权指令以及不被翻译的指令",
        ),
        Account::Rescue => {
            ("der Interpreter ausführt, was der Wirt nicht konnte", "解释器执行宿主机无法执行的指令")
        }
        Account::GuestException => ("der Gast Ausnahmen betritt", "客户机进入异常"),
        Account::PageTableSync => {
            ("die Abbildungen des Wirts den Seitentabellen des Gastes folgen", "宿主机的映射跟随客户机页表")
        }
        Account::PortIo => {
            ("auf einen Port zugegriffen wird: der Weg zum Gerät und zurück", "访问端口：到设备的往返路程")
        }
        Account::Mmio => (
            "auf Gerätespeicher zugegriffen wird: der Weg zum Gerät und zurück",
            "访问设备内存：到设备的往返路程",
        ),
        Account::Interrupt => ("der Gast externe Unterbrechungen betritt", "客户机进入外部中断"),
        Account::Device => {
            ("Gerätemodelle arbeiten, und fällige Zeitgeber", "设备模型以及到期的定时器在工作")
        }
        Account::Idle => ("HLT wartet", "HLT 在等待"),
        Account::Host => (
            "alles andere geschieht: ein Lauf beginnt oder endet, der Gast wechselt die Maschine",
            "其余一切：运行开始或结束，客户机更换引擎",
        ),
    };
    Text { en: account.about(), de, zh }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_has_words_and_nothing_else_has() {
        for one in Cause::ALL {
            assert_eq!(cause(one).is_some(), one.is_exit(), "{}", one.name());
        }
    }

    #[test]
    fn what_is_not_known_stays() {
        assert_eq!(note("no end after 20s", Language::German), "no end after 20s");
        assert_eq!(note("not measured", Language::German), "nicht gemessen");
        assert_eq!(fact("cpu", Language::Chinese), "处理器");
        assert_eq!(fact("colour", Language::Chinese), "colour");
    }
}
