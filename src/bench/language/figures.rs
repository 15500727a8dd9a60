//! Texts of the figures: titles, axes, remarks, the method below each, and what each shows for who cannot see it.

super::texts! {
    /// Heading of the slowdown figure.
    SLOWDOWN {
        en "Slowdown to native"
        de "Verlangsamung gegenüber nativer Ausführung"
        zh "相对原生执行的减速"
    }
    SLOWDOWN_METHOD {
        en "Each mark is the time of one task divided by the time of the same code run directly on the host in the same round: the median over all rounds, with a bar over its 95 % bootstrap interval; means are geometric. The axis is logarithmic: equal distances are equal factors, and marks on the line at 1× run at native speed."
        de "Jede Marke ist die Zeit einer Aufgabe, geteilt durch die Zeit desselben Codes, der in derselben Runde unmittelbar auf dem Wirt lief: der Median über alle Runden, mit einem Balken über sein 95-%-Bootstrap-Intervall; Mittelwerte sind geometrisch. Die Achse ist logarithmisch: gleiche Abstände sind gleiche Faktoren, und Marken auf der Linie bei 1× laufen so schnell wie nativ."
        zh "每个标记是一项任务的用时除以同一轮中同一代码直接在宿主机上运行的用时：取各轮的中位数，横线表示其 95% 自助法置信区间；平均值均为几何平均。坐标轴为对数刻度：相等的距离表示相等的倍数，落在 1× 线上的标记与原生执行一样快。"
    }
    SLOWDOWN_ALT {
        en "Dot plot with a logarithmic axis: slowdown of {count} tasks relative to native. Geometric means: {means}."
        de "Punktdiagramm mit logarithmischer Achse: Verlangsamung von {count} Aufgaben gegenüber nativer Ausführung. Geometrische Mittel: {means}."
        zh "对数坐标点图：{count} 项任务相对原生执行的减速。几何平均：{means}。"
    }
    SLOWDOWN_SCENE {
        en "Slowdown to native, per task and mode"
        de "Verlangsamung gegenüber nativer Ausführung, je Aufgabe und Modus"
        zh "各任务在各模式下相对原生执行的减速"
    }
    SLOWDOWN_AXIS {
        en "time relative to native (log scale; 1× is native speed)"
        de "Zeit im Verhältnis zu nativ (logarithmisch; 1× ist native Geschwindigkeit)"
        zh "相对原生执行的用时（对数刻度；1× 为原生速度）"
    }
    MEAN_OF_TASKS { en "mean of {count} tasks" de "Mittel von {count} Aufgaben" zh "{count} 项任务的平均" }
    MEAN_OF_INTEGER { en "mean of {count} integer" de "Mittel von {count} ganzzahligen" zh "{count} 项整数任务的平均" }
    MEAN_OF_VECTOR { en "mean of {count} FP and SIMD" de "Mittel von {count} mit FP, SIMD" zh "{count} 项浮点与 SIMD 的平均" }

    /// Heading of the figure of single operations.
    NANO { en "Cost of one operation" de "Kosten einer einzelnen Operation" zh "单次操作的开销" }
    NANO_METHOD {
        en "Each mark is the median time of a single operation, such as an exit, a trap or a page-table change, measured in a loop inside the guest. Where the modes of one operation lie far apart, one technique handles it in hardware or in place and another has to step in."
        de "Jede Marke ist der Median der Zeit einer einzelnen Operation, etwa eines Exits, eines Traps oder einer Änderung der Seitentabelle, gemessen in einer Schleife im Gast. Wo die Modi bei einer Operation weit auseinander liegen, erledigt sie die eine Technik in Hardware oder an Ort und Stelle, und die andere muss eingreifen."
        zh "每个标记是单次操作（如一次退出、一次陷入或一次页表修改）用时的中位数，在客户机内的循环中测得。若同一操作在各模式下相差很远，说明某种技术由硬件或就地完成它，而另一种技术必须介入。"
    }
    NANO_ALT {
        en "Dot plot with a logarithmic axis: time of {count} operations by mode. Ranges: {ranges}."
        de "Punktdiagramm mit logarithmischer Achse: Zeit von {count} Operationen je Modus. Bereiche: {ranges}."
        zh "对数坐标点图：{count} 种操作在各模式下的用时。范围：{ranges}。"
    }
    RANGE { en "{mode} {low} to {high}" de "{mode} {low} bis {high}" zh "{mode} 从 {low} 到 {high}" }
    NANO_SCENE { en "Cost of one operation, by mode" de "Kosten einer Operation, je Modus" zh "各模式下单次操作的开销" }
    NANO_AXIS { en "time of one operation (log scale)" de "Zeit einer Operation (logarithmisch)" zh "单次操作的用时（对数刻度）" }

    /// Heading of the figure of sweeps.
    SWEEPS { en "Time over size" de "Zeit über der Größe" zh "用时随规模的变化" }
    SWEEPS_METHOD {
        en "Each line shows for one mode how the time of one operation grows with its size: the median over all rounds, with a bar over its 95 % bootstrap interval. Both axes are logarithmic: a flat line costs the same whatever the size, one as steep as the thin slanting lines grows in proportion to it, and where a line bends, a fixed cost gives way to one that is paid for each part."
        de "Jede Linie zeigt für einen Modus, wie die Zeit einer Operation mit ihrer Größe wächst: der Median über alle Runden, mit einem Balken über sein 95-%-Bootstrap-Intervall. Beide Achsen sind logarithmisch: Eine flache Linie kostet bei jeder Größe gleich viel, eine so steile wie die dünnen schrägen Linien wächst im Verhältnis zur Größe, und wo eine Linie abknickt, weichen feste Kosten solchen, die für jeden Teil anfallen."
        zh "每条线表示某一模式下单次操作的用时如何随其规模增长：取各轮的中位数，竖线表示其 95% 自助法置信区间。两个坐标轴均为对数刻度：水平的线表示开销与规模无关，与细斜线同样陡的线表示开销与规模成正比；线的转折处，固定开销让位于按份支付的开销。"
    }
    SWEEPS_ALT {
        en "{count} line plots with logarithmic axes: time of one operation over its size, a line per mode. {series}."
        de "{count} Liniendiagramme mit logarithmischen Achsen: Zeit einer Operation über ihrer Größe, eine Linie je Modus. {series}."
        zh "{count} 幅双对数折线图：单次操作的用时随其规模的变化，每个模式一条线。{series}。"
    }
    SWEEPS_SCENE {
        en "How the cost grows: time over size"
        de "Wie die Kosten wachsen: Zeit über der Größe"
        zh "开销如何增长：用时随规模的变化"
    }
    SWEEPS_AXES {
        en "{what} (log scale); upwards: time of one operation (log scale)"
        de "{what} (logarithmisch); aufwärts: Zeit einer Operation (logarithmisch)"
        zh "{what}（对数刻度）；纵轴：单次操作的用时（对数刻度）"
    }
    SWEEPS_TITLE { en "{name}, {least} to {most} {what}" de "{name}, {least} bis {most} {what}" zh "{name}，{least} 至 {most} {what}" }

    /// Heading of the figure of exits.
    EXITS { en "Exits by cause" de "Exits nach Ursache" zh "按原因划分的退出" }
    EXITS_METHOD {
        en "Each bar divides the moments at which a mode had to leave guest code in the timed regions by their cause, and the figure beside it counts them; boot and calibration do not count. A slow task with many exits pays for crossings; a slow task with few pays for the way its instructions are executed."
        de "Jeder Balken teilt die Augenblicke, in denen ein Modus in den gemessenen Abschnitten den Code des Gastes verlassen musste, nach ihrer Ursache auf; die Zahl daneben zählt sie. Systemstart und Kalibrierung zählen nicht. Eine langsame Aufgabe mit vielen Exits bezahlt für die Übergänge, eine mit wenigen für die Art, wie ihre Befehle ausgeführt werden."
        zh "每个条形按原因划分某模式在计时区间内不得不离开客户机代码的次数，旁边的数字是总次数；启动和校准不计入。退出多的慢任务，代价在于来回切换；退出少的慢任务，代价在于其指令的执行方式。"
    }
    EXITS_ALT {
        en "Stacked bars: shares of exit causes per workload and mode. Exits in the timed regions of all workloads: {totals}."
        de "Gestapelte Balken: Anteile der Ursachen von Exits je Arbeitslast und Modus. Exits in den gemessenen Abschnitten aller Arbeitslasten: {totals}."
        zh "堆叠条形图：各负载在各模式下退出原因所占的比例。全部负载计时区间内的退出次数：{totals}。"
    }
    EXITS_SCENE {
        en "Why each mode left the guest: exits by cause"
        de "Warum jeder Modus den Gast verließ: Exits nach Ursache"
        zh "各模式为何离开客户机：按原因划分的退出"
    }
    EXITS_REMARK {
        en "Share of each cause in the timed regions of a run; beside it the count there, and per measured iteration."
        de "Anteil jeder Ursache in den gemessenen Abschnitten eines Laufs; daneben die Zahl dort, und je gemessenem Durchlauf."
        zh "各原因在一次运行的计时区间内所占的比例；旁边是该区间内的次数，以及每次迭代的次数。"
    }
    EXITS_KVM_REMARK {
        en "kvm: what reached this program; exits that the host's kernel handles by itself do not show."
        de "kvm: was dieses Programm erreichte; Exits, die der Kern des Wirts selbst erledigt, erscheinen nicht."
        zh "kvm：只含到达本程序的退出；宿主机内核自行处理的退出不可见。"
    }
    EXITS_AXIS { en "share of exits" de "Anteil an den Exits" zh "占退出次数的比例" }
    PER_ITERATION { en "{count} / iteration" de "{count} / Durchlauf" zh "{count} / 迭代" }
    OTHER_CAUSES { en "other causes" de "andere Ursachen" zh "其他原因" }

    /// Heading of the figure of the ledger.
    LEDGER { en "Where time goes" de "Wohin die Zeit geht" zh "时间花在哪里" }
    LEDGER_METHOD {
        en "Each bar divides the time of the timed regions among accounts that are named alike in every mode, and the figure beside it is that time; all of a stay outside of guest code belongs to what guest code was left for, but page walks, translation and devices have accounts of their own. It comes from one further run of each guest, since keeping it costs some tens of nanoseconds for each exit: shares are to be read, not times."
        de "Jeder Balken teilt die Zeit der gemessenen Abschnitte auf Konten auf, die in jedem Modus gleich heißen; die Zahl daneben ist diese Zeit. Ein Aufenthalt außerhalb des Gastcodes gehört ganz zu dem, wofür er verlassen wurde; Gänge durch Seitentabellen, Übersetzung und Geräte haben eigene Konten. Er stammt aus einem weiteren Lauf jedes Gastes, weil das Buchführen einige zehn Nanosekunden je Exit kostet: zu lesen sind die Anteile, nicht die Zeiten."
        zh "每个条形把计时区间的时间分到在各模式下名称相同的账目，旁边的数字就是这段时间；一次离开客户机代码的全部时间归于离开的原因，而页表遍历、翻译和设备另有自己的账目。数据来自每个客户机的另外一次运行，因为记账使每次退出多花几十纳秒：应看比例，而不是时间。"
    }
    LEDGER_ALT {
        en "Stacked bars: shares of accounts in the time of each workload and mode. Guest code has on average: {shares}."
        de "Gestapelte Balken: Anteile der Konten an der Zeit je Arbeitslast und Modus. Gastcode hat im Mittel: {shares}."
        zh "堆叠条形图：各负载在各模式下各账目所占的时间比例。客户机代码平均占：{shares}。"
    }
    LEDGER_SCENE {
        en "Where each mode's time goes, by account"
        de "Wohin die Zeit jedes Modus geht, nach Konten"
        zh "各模式的时间去向：按账目划分"
    }
    LEDGER_REMARK {
        en "Share of each account in the timed regions of one further run; beside it their time, and per measured iteration."
        de "Anteil jedes Kontos in den gemessenen Abschnitten eines weiteren Laufs; daneben deren Zeit, und je gemessenem Durchlauf."
        zh "各账目在另一次运行的计时区间内所占的比例；旁边是该区间的时间，以及每次迭代的时间。"
    }
    LEDGER_KVM_REMARK {
        en "kvm: what the host's kernel does for the guest by itself is within guest code; pv: so are the host's switches between processes."
        de "kvm: was der Kern des Wirts selbst für den Gast tut, liegt im Gastcode; pv: ebenso die Wechsel des Wirts zwischen Prozessen."
        zh "kvm：宿主机内核自行为客户机所做的工作算在客户机代码内；pv：宿主机的进程切换也是如此。"
    }
    LEDGER_AXIS { en "share of time" de "Anteil an der Zeit" zh "占时间的比例" }
    OTHER_ACCOUNTS { en "other accounts" de "andere Konten" zh "其他账目" }

    /// Heading of the scatter of tasks.
    SCATTER_TASKS { en "Scatter of repetitions: tasks" de "Streuung der Wiederholungen: Aufgaben" zh "重复测量的离散程度：任务" }
    SCATTER_NANO {
        en "Scatter of repetitions: nano operations"
        de "Streuung der Wiederholungen: einzelne Operationen"
        zh "重复测量的离散程度：单次操作"
    }
    SCATTER_METHOD {
        en "Each mark is one repetition, placed by how much it took more or less than the median of its own mode. Narrow rows can be trusted to a few percent; wide rows and outlined outliers say that the host was busy or its speed drifted."
        de "Jede Marke ist eine Wiederholung; ihr Ort sagt, wie viel mehr oder weniger sie brauchte als der Median ihres Modus. Schmalen Zeilen darf man auf wenige Prozent trauen; breite Zeilen und hohl gezeichnete Ausreißer sagen, dass der Wirt beschäftigt war oder seine Geschwindigkeit schwankte."
        zh "每个标记是一次重复测量，其位置表示用时比本模式的中位数多或少多少。窄的行可信到百分之几；宽的行和空心的离群值说明宿主机繁忙或速度有漂移。"
    }
    SCATTER_ALT {
        en "Scatter plot: deviation of {count} repetitions from the median of their mode; {outliers} are marked as outliers."
        de "Streudiagramm: Abweichung von {count} Wiederholungen vom Median ihres Modus; {outliers} sind als Ausreißer markiert."
        zh "散点图：{count} 次重复测量相对各自模式中位数的偏差；其中 {outliers} 次标为离群值。"
    }
    SCATTER_SCENE_TASKS {
        en "How far repetitions scatter: tasks"
        de "Wie weit Wiederholungen streuen: Aufgaben"
        zh "重复测量的离散程度：任务"
    }
    SCATTER_SCENE_NANO {
        en "How far repetitions scatter: nano operations"
        de "Wie weit Wiederholungen streuen: einzelne Operationen"
        zh "重复测量的离散程度：单次操作"
    }
    SCATTER_REMARK {
        en "One mark is one repetition. Outliers are outlined, and kept in every figure; those beyond the axis stand at its edge with their deviation."
        de "Eine Marke ist eine Wiederholung. Ausreißer sind hohl und bleiben in jeder Zahl; die jenseits der Achse stehen an ihrem Rand mit ihrer Abweichung."
        zh "一个标记是一次重复测量。离群值画成空心，但计入所有数字；超出坐标轴的标在边缘并注明偏差。"
    }
    SCATTER_AXIS {
        en "deviation from the mode's own median"
        de "Abweichung vom Median des Modus"
        zh "相对本模式中位数的偏差"
    }
    MEDIAN { en "median" de "Median" zh "中位数" }

    /// Line of a mode without a figure.
    NO_FIGURE { en "no figure" de "keine Zahl" zh "无数据" }
    NO_NATIVE {
        en "no native figure to compare with"
        de "keine native Zahl zum Vergleich"
        zh "没有可比的原生数据"
    }
    NONE { en "none" de "keine" zh "无" }
    /// Why a whole column is empty.
    EMPTY_BECAUSE { en "{mode}: empty, because {why}" de "{mode}: leer, weil {why}" zh "{mode}：空，原因：{why}" }
    HOST_UNKNOWN { en "host unknown" de "Wirt unbekannt" zh "宿主机未知" }
}
