//! Texts of the page around its figures.

super::texts! {
    /// The page's title, in the browser's tab.
    TITLE {
        en "trivisor: one guest, three ways ({run})"
        de "trivisor: ein Gast, drei Wege ({run})"
        zh "trivisor：一个客户机，三种方式（{run}）"
    }
    HEADING {
        en "One guest, three ways: what virtualization costs"
        de "Ein Gast, drei Wege: was Virtualisierung kostet"
        zh "一个客户机，三种方式：虚拟化的代价"
    }
    RUN_BEGUN { en "Run {run} · begun {time}" de "Lauf {run} · begonnen {time}" zh "运行 {run} · 开始于 {time}" }
    BEWARE { en "Beware" de "Vorsicht" zh "注意" }
    DATA { en "data" de "Daten" zh "数据" }
    KVM_HERE { en "KVM on this host: {label}." de "KVM auf diesem Wirt: {label}." zh "本宿主机上的 KVM：{label}。" }
    KVM_HARDWARE {
        en "The CPU runs guest code of every privilege itself, so the kvm column shows hardware assistance as it is meant to be."
        de "Der Prozessor führt Gastcode jeder Privilegstufe selbst aus; die Spalte kvm zeigt also Hardwareunterstützung, wie sie gemeint ist."
        zh "CPU 自己执行各特权级的客户机代码，因此 kvm 一列反映的是真正的硬件辅助虚拟化。"
    }
    KVM_NESTED {
        en "This host is itself a virtual machine: guest code runs on the CPU, but every exit passes through two hypervisors, so exits cost several times what they do on bare hardware."
        de "Dieser Wirt ist selbst eine virtuelle Maschine: Gastcode läuft auf dem Prozessor, aber jeder Exit geht durch zwei Hypervisoren und kostet darum ein Vielfaches dessen, was er auf echter Hardware kostet."
        zh "本宿主机自身就是虚拟机（嵌套虚拟化）：客户机代码在 CPU 上运行，但每次退出都要经过两层虚拟机监控程序，因此退出的代价是裸机上的数倍。"
    }
    KVM_EMULATED {
        en "The host's KVM has no hardware assistance: it runs user code natively and emulates kernel code instruction by instruction, so the kvm column shows that technique and not what VMX or SVM would do."
        de "Das KVM dieses Wirts hat keine Hardwareunterstützung: es führt Benutzercode nativ aus und emuliert Kerncode Befehl für Befehl; die Spalte kvm zeigt also diese Technik und nicht, was VMX oder SVM leisten würden."
        zh "本宿主机的 KVM 没有硬件辅助：用户态代码原生执行，内核态代码逐条指令模拟，因此 kvm 一列反映的是这种技术，而不是 VMX 或 SVM 的表现。"
    }
    KVM_NONE {
        en "There is no usable KVM, so the kvm column is empty."
        de "Es gibt kein brauchbares KVM; die Spalte kvm ist darum leer."
        zh "没有可用的 KVM，因此 kvm 一列为空。"
    }
    KVM_UNKNOWN {
        en "What this KVM does was not determined; do not read the kvm column as hardware assistance."
        de "Was dieses KVM tut, ließ sich nicht bestimmen; die Spalte kvm darf nicht als Hardwareunterstützung gelesen werden."
        zh "未能确定这个 KVM 的工作方式；请不要把 kvm 一列当作硬件辅助虚拟化来看。"
    }

    /// Heading of the means.
    IN_SHORT { en "In short" de "In Kürze" zh "概要" }
    IN_SHORT_ABOUT {
        en "Geometric mean of the slowdown to native, over the tasks that every mode completed:"
        de "Geometrisches Mittel der Verlangsamung gegenüber nativer Ausführung, über die Aufgaben, die jeder Modus zu Ende brachte:"
        zh "相对原生执行减速倍数的几何平均，只取所有模式都完成的任务："
    }
    HOW_TO_READ { en "How to read this page" de "Wie diese Seite zu lesen ist" zh "如何阅读本页" }
    METHOD {
        en "Every mode runs the same guest image; emu, pv and kvm also share their device models, peers bring their own. Within a round the modes of a workload run directly after one another, in random order; a first round only warms up. A figure is the median of the repetitions with a 95 % bootstrap interval. Outliers are marked and kept. A mode whose checksum differs is called diverged and has no figure; a mode that cannot run is left empty, with the reason."
        de "Jeder Modus führt dasselbe Gastabbild aus; emu, pv und kvm teilen sich auch die Gerätemodelle, andere Programme bringen ihre eigenen mit. Innerhalb einer Runde laufen die Modi einer Arbeitslast unmittelbar nacheinander, in zufälliger Reihenfolge; eine erste Runde dient nur dem Aufwärmen. Eine Zahl ist der Median der Wiederholungen mit einem 95-%-Bootstrap-Intervall. Ausreißer werden markiert und behalten. Ein Modus, dessen Prüfsumme abweicht, heißt diverged und hat keine Zahl; ein Modus, der hier nicht läuft, bleibt leer, mit dem Grund."
        zh "所有模式运行同一个客户机映像；emu、pv 和 kvm 还共用同一套设备模型，其他软件则用各自的。在每一轮中，同一负载的各模式按随机顺序紧接着依次运行；第一轮只用于预热。每个数字是各次重复的中位数，附 95% 自助法置信区间。离群值会标出，但予以保留。校验和不一致的模式标为 diverged，没有数据；不能运行的模式留空并说明原因。"
    }
    MODE_DIRECT_NONE {
        en "trap-and-emulate, as textbooks tell it: the guest runs directly on the CPU, without privileges and unpatched. Privileged instructions fault and are emulated; the sensitive ones that do not fault go wrong, and what depends on them diverges."
        de "Trap-and-Emulate, wie es im Lehrbuch steht: der Gast läuft unmittelbar auf dem Prozessor, ohne Privilegien und ohne Änderung. Privilegierte Befehle lösen einen Trap aus und werden emuliert; die sensitiven, die keinen auslösen, gehen falsch aus, und was von ihnen abhängt, weicht ab."
        zh "教科书中的“陷入并模拟”：客户机直接在 CPU 上运行，没有特权，也不打补丁。特权指令会陷入并被模拟；不会陷入的敏感指令则得出错误结果，依赖它们的部分随之偏离。"
    }
    MODE_WITH_HYPERCALLS {
        en "the engine before the slash, with hypercalls that the guest is told of and may use."
        de "die Maschine vor dem Schrägstrich, mit Hypercalls, von denen der Gast weiß und die er benutzen darf."
        zh "斜杠前的执行引擎，外加告知客户机并可供其使用的超级调用。"
    }
    MODE_NATIVE {
        en "the same kernels, run in an ordinary process on the host: the measure of all others."
        de "dieselben Rechenkerne in einem gewöhnlichen Prozess auf dem Wirt: der Maßstab für alle anderen."
        zh "同样的计算内核，在宿主机的普通进程中运行：其余各列的基准。"
    }
    MODE_EMU {
        en "emulation by a binary translator, which makes host code of the guest's code; privileged instructions are done by software."
        de "Emulation durch Binärübersetzung: aus dem Code des Gastes wird Code des Wirts; privilegierte Befehle erledigt Software."
        zh "用二进制翻译器模拟：把客户机代码翻译成宿主机代码；特权指令由软件完成。"
    }
    MODE_INTERPRETER {
        en "emulation by the interpreter, one guest instruction after the other; the reference for the translator."
        de "Emulation durch den Interpreter, ein Befehl des Gastes nach dem anderen; das Vorbild, an dem der Übersetzer geprüft wird."
        zh "用解释器模拟，逐条执行客户机指令；是核对翻译器的参照。"
    }
    MODE_TRANSLATOR {
        en "emulation by the binary translator, which makes host code of the guest's code."
        de "Emulation durch Binärübersetzung: aus dem Code des Gastes wird Code des Wirts."
        zh "用二进制翻译器模拟：把客户机代码翻译成宿主机代码。"
    }
    MODE_ABLATED {
        en "emulation by the binary translator without the techniques that its name says, to show what they buy."
        de "Emulation durch Binärübersetzung ohne die Techniken, die der Name nennt: das zeigt, was sie bringen."
        zh "用二进制翻译器模拟，但去掉名称中列出的技术，以显示这些技术的收益。"
    }
    MODE_EMU_ENGINE {
        en "emulation by the engine named after the slash; the same software in all else."
        de "Emulation durch die Maschine nach dem Schrägstrich; sonst dieselbe Software."
        zh "用斜杠后的引擎模拟；其余软件相同。"
    }
    MODE_PV {
        en "paravirtualization: the guest is patched and then runs directly on the CPU, without privileges, in a sandbox."
        de "paravirtualisiert: der Gast wird gepatcht und läuft dann unmittelbar auf dem Prozessor, ohne Privilegien, in einer Sandbox."
        zh "半虚拟化：客户机经过打补丁后，在沙箱中以非特权方式直接在 CPU 上运行。"
    }
    MODE_KVM {
        en "hardware assistance, through the kernel's /dev/kvm."
        de "Hardwareunterstützung, durch /dev/kvm des Kerns."
        zh "硬件辅助虚拟化，通过内核的 /dev/kvm。"
    }
    MODE_QEMU_TCG {
        en "a peer for comparison: QEMU with its translator."
        de "zum Vergleich: QEMU mit seinem Übersetzer."
        zh "用于对比：使用自身翻译器的 QEMU。"
    }
    MODE_QEMU_KVM {
        en "a peer for comparison: QEMU on /dev/kvm."
        de "zum Vergleich: QEMU auf /dev/kvm."
        zh "用于对比：基于 /dev/kvm 的 QEMU。"
    }
    MODE_OTHER { en "a further column." de "eine weitere Spalte." zh "另外的一列。" }

    /// Heading of the tables of times.
    TIMES { en "Times" de "Zeiten" zh "用时" }
    TIMES_OF_TASKS {
        en "Median time of one unit of work, its interval, and slowdown to native if there is one"
        de "Median der Zeit einer Arbeitseinheit, ihr Intervall, und die Verlangsamung gegenüber nativ, wo es sie gibt"
        zh "一个工作单元用时的中位数、其区间，以及（若有）相对原生执行的减速倍数"
    }
    TIMES_OF_NANO {
        en "Median time of one operation, its interval, and slowdown to native if there is one"
        de "Median der Zeit einer Operation, ihr Intervall, und die Verlangsamung gegenüber nativ, wo es sie gibt"
        zh "单次操作用时的中位数、其区间，以及（若有）相对原生执行的减速倍数"
    }
    CAUSES { en "The causes" de "Die Ursachen" zh "各种原因" }
    COUNTED_WHEN { en "one is counted when" de "gezählt wird, wenn" zh "何时计一次" }
    EXITS_TABLE {
        en "Median counts in the timed regions of a run"
        de "Median der Zahlen in den gemessenen Abschnitten eines Laufs"
        zh "一次运行的计时区间内次数的中位数"
    }
    LEDGER_TABLE {
        en "Time of the timed regions of one run, by account"
        de "Zeit der gemessenen Abschnitte eines Laufs, nach Konten"
        zh "一次运行的计时区间的时间，按账目划分"
    }
    LEDGER_DIFFERENCE {
        en "The accounts differ from what the guests timed themselves by {median} (median), at most {most}: that is the way from the marks of a region to the guest's own look at its clock, and, where a guest reports only a part of a region (timer_interrupt, map_batch), the rest of it."
        de "Die Konten weichen von dem, was die Gäste selbst maßen, um {median} ab (Median), höchstens um {most}: Das ist der Weg von den Marken eines Abschnitts bis zum Blick des Gastes auf seine Uhr, und, wo ein Gast nur einen Teil eines Abschnitts meldet (timer_interrupt, map_batch), dessen Rest."
        zh "各账目之和与客户机自己计得的时间相差 {median}（中位数），最多 {most}：这是从区间标记到客户机读取自己时钟之间的路程；若客户机只报告区间的一部分（timer_interrupt、map_batch），则还包括其余部分。"
    }
    ACCOUNTS { en "The accounts" de "Die Konten" zh "各账目" }
    HOLDS { en "holds the time in which" de "enthält die Zeit, in der" zh "包含的时间" }
    SWEEPS_TABLE {
        en "Median time of one operation of each size, and its interval"
        de "Median der Zeit einer Operation jeder Größe, und sein Intervall"
        zh "各规模下单次操作用时的中位数及其区间"
    }
    SCATTER_TABLE {
        en "Repetitions, outliers among them, and half width of the interval"
        de "Wiederholungen, Ausreißer darunter, und halbe Breite des Intervalls"
        zh "重复次数、其中的离群值个数、区间半宽"
    }
    /// A link from a figure to its table.
    FIGURE_TABLE {
        en "The figures of this plot in a table"
        de "Die Zahlen dieses Bildes in einer Tabelle"
        zh "本图数据的表格"
    }
    GAPS { en "Gaps" de "Lücken" zh "缺失的数据" }
    GAPS_ABOUT {
        en "What has no figure, or lost repetitions, and why."
        de "Was keine Zahl hat oder Wiederholungen verlor, und warum."
        zh "没有数据或丢失了部分重复的项目及其原因。"
    }
    GAPS_TABLE { en "Missing figures" de "Fehlende Zahlen" zh "缺少的数据" }
    EVERYTHING { en "everything" de "alles" zh "全部" }
    CIRCUMSTANCES { en "Circumstances" de "Umstände" zh "测量条件" }
    OPTIONS { en "Options of the run" de "Optionen des Laufs" zh "本次运行的选项" }
    FINGERPRINTS {
        en "Fingerprints of the rows, spelled out"
        de "Die Fingerabdrücke der Zeilen, ausgeschrieben"
        zh "各行指纹的完整内容"
    }
    FINGERPRINTS_TABLE {
        en "The half before the hyphen must be equal for rows to be compared"
        de "Die Hälfte vor dem Bindestrich muss gleich sein, damit Zeilen verglichen werden"
        zh "连字符之前的一半相同，两行才可比较"
    }

    /// Heading of the list of labs.
    LABS { en "Labs: see it happen" de "Versuche: selbst zusehen" zh "实验：亲眼看一看" }
    LABS_ABOUT {
        en "Short experiments that show in a running guest what these figures count; each takes ten minutes and needs nothing but trivisor."
        de "Kurze Versuche, die in einem laufenden Gast zeigen, was diese Zahlen zählen; jeder dauert zehn Minuten und braucht nur trivisor."
        zh "几个简短的实验，在运行中的客户机里展示这些数字所统计的东西；每个十分钟，只需要 trivisor。"
    }
    LAB_TRAP {
        en "Trap-and-emulate breaks x86: instructions that act on the host's state without a fault, and what it takes to catch them"
        de "Trap-and-Emulate scheitert an x86: Befehle, die ohne Trap auf den Zustand des Wirts wirken, und was es braucht, sie zu fangen"
        zh "x86 上的“陷入并模拟”行不通：不产生异常却作用于宿主机状态的指令，以及如何截住它们"
    }
    LAB_PAGE_FAULT {
        en "Follow a page fault: an entry that is missing, the handler that fills it, and who writes it after that"
        de "Einem Seitenfehler folgen: ein Eintrag, der fehlt, die Behandlung, die ihn füllt, und wer ihn danach schreibt"
        zh "跟踪一次缺页：缺少的表项、填写它的处理程序，以及此后谁写了它"
    }
    LAB_HYPERCALLS {
        en "What a hypercall saves: one call for many page-table entries against a patched write for each"
        de "Was ein Hypercall spart: ein Aufruf für viele Einträge der Seitentabelle statt eines gepatchten Schreibens für jeden"
        zh "一次超级调用节省了什么：一次调用修改许多页表项，对比逐项的补丁写入"
    }
    LAB_INTERRUPT {
        en "Catch a lost interrupt: one that comes between a check and HLT, found by going back from the sleep that it caused"
        de "Eine verlorene Unterbrechung fangen: sie kommt zwischen einer Prüfung und HLT und wird gefunden, indem man vom Schlaf, den sie verursacht, zurückgeht"
        zh "捕捉丢失的中断：它发生在检查与 HLT 之间，从它造成的休眠往回走就能找到"
    }
    LAB_LOCKSTEP {
        en "Find the instruction where two modes differ: a translator with a mistake, and the instruction that shows it"
        de "Den Befehl finden, an dem zwei Modi sich unterscheiden: ein Übersetzer mit einem Fehler, und der Befehl, der ihn zeigt"
        zh "找出两个模式不一致的那条指令：一个有错误的翻译器，以及暴露它的指令"
    }

    /// Headings of columns.
    COLUMN_TASK { en "task" de "Aufgabe" zh "任务" }
    COLUMN_SIZE { en "size" de "Größe" zh "规模" }
    COLUMN_OPERATION { en "operation" de "Operation" zh "操作" }
    COLUMN_MEASURED { en "measured" de "gemessen" zh "测量项" }
    COLUMN_CAUSE { en "cause" de "Ursache" zh "原因" }
    COLUMN_CAUSES { en "causes" de "Ursachen" zh "原因" }
    COLUMN_WORKLOAD { en "workload" de "Arbeitslast" zh "负载" }
    COLUMN_MODE { en "mode" de "Modus" zh "模式" }
    COLUMN_ACCOUNT { en "account" de "Konto" zh "账目" }
    COLUMN_ACCOUNTS { en "accounts" de "Konten" zh "账目" }
    COLUMN_TIME { en "time" de "Zeit" zh "时间" }
    COLUMN_EXITS { en "exits" de "Exits" zh "退出次数" }
    COLUMN_ITERATIONS { en "iterations" de "Durchläufe" zh "迭代次数" }
    COLUMN_WHAT { en "what" de "was" zh "项目" }
    COLUMN_WHY { en "why" de "warum" zh "原因" }
    COLUMN_OPTION { en "option" de "Option" zh "选项" }
    COLUMN_VALUE { en "value" de "Wert" zh "值" }
    COLUMN_FINGERPRINT { en "fingerprint" de "Fingerabdruck" zh "指纹" }
    COLUMN_COLUMN { en "column" de "Spalte" zh "列" }
    COLUMN_IMAGE { en "image (SHA-256)" de "Abbild (SHA-256)" zh "映像（SHA-256）" }
    COLUMN_DEVICES { en "devices" de "Geräte" zh "设备" }
    COLUMN_CLOCK { en "guest clock" de "Uhr des Gastes" zh "客户机时钟" }
    COLUMN_VERSION { en "version" de "Version" zh "版本" }
}
